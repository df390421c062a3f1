"""The server's log: one line an event on standard error, coloured for a person at a terminal, JSON otherwise. No secrets, no prompts' texts.

What a sandbox or a stranger can make happen again and again fills no disk by it: of one event ``MOST_A_MINUTE`` lines are written in a minute, the next minute's
first one says how many were ``left_out``; and when standard error is a file of ours (``server.log`` of a server in the background), it is moved
to ``server.log.1`` by copying when it has become larger than ``MOST_BYTES``, which is looked at once a minute at most.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

MOST_A_MINUTE = 300
MOST_BYTES = 20 * 1024 * 1024
FILE = "server.log"
_NAMES = 1000
"""Different events that are told apart in a minute."""


class Sparing:
    """Leaves lines out: as structlog's processor, and as a filter of the standard library's loggers."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._minute = 0
        self._written: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        left_out = self._count(str(event.get("event")))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._count(f"{record.name}: {record.msg}")
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", ()
        return left_out is not None

    def _count(self, name: str) -> int | None:
        """None: this line is one too many; else how many were left out before it."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._left_out = {
                n: count - MOST_A_MINUTE for n, count in self._written.items() if count > MOST_A_MINUTE
            }
            self._written = {}
            if self._descriptor is not None:
                keep_small(self._descriptor)
        if name not in self._written and len(self._written) >= _NAMES:
            name = "…"
        self._written[name] = count = self._written.get(name, 0) + 1
        return self._left_out.pop(name, 0) if count <= MOST_A_MINUTE else None


def keep_small(descriptor: int) -> None:
    """Move what the log's file holds aside when it is too large. Another program's file, or one that is not only added to, is left alone."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size <= MOST_BYTES:
        return
    path = Path(f"/proc/self/fd/{descriptor}").readlink()
    if path.name != FILE or not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
        return
    old = path.with_suffix(".log.1")
    try:
        with path.open("rb") as source, open(old, "wb", opener=_private) as target:
            shutil.copyfileobj(source, target)
    except OSError:
        old.unlink(
            missing_ok=True
        )  # no room for two of them: the newest lines matter, and there is room for those now
    os.ftruncate(descriptor, 0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def configure(level: str) -> None:
    numeric = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(
        level=max(numeric, logging.WARNING), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    descriptor: int | None = None
    with contextlib.suppress(OSError):  # it may have been replaced by what is no file
        descriptor = sys.stderr.fileno()
    sparing = Sparing(descriptor)
    for handler in logging.getLogger().handlers:
        handler.addFilter(sparing)
    person = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            sparing,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            # never with local variables: they hold tokens, keys and prompts
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if person
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
