"""The log says what happens, and is not filled by who makes the same thing happen for ever."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from openinspect import logs

_SERVER = """
import logging
from openinspect import logs
import structlog
logs.MOST_A_MINUTE = 5
logs.MOST_BYTES = 300
logs.time = type("Clock", (), {"monotonic": staticmethod(lambda: now)})
now = 60.0
logs.configure("info")
log = structlog.get_logger()
for n in range(50):
    log.info("again", n=n)
    logging.getLogger("other").warning("number %d", n)
log.warning("once")
now = 120.0
log.info("again", n=50)
logging.getLogger("other").warning("number %d", 50)
"""


def test_the_same_again_and_again_is_left_out_and_the_file_stays_small(tmp_path: Path) -> None:
    path = tmp_path / logs.FILE
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", _SERVER], stderr=file, check=True, timeout=60)
    aside = (tmp_path / "server.log.1").read_text().splitlines()
    assert (tmp_path / "server.log.1").stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["n"] for line in aside if '"again"' in line] == [0, 1, 2, 3, 4]
    assert sum("other: number" in line for line in aside) == 5
    assert json.loads(aside[-1])["event"] == "once"
    again, other = path.read_text().splitlines()
    assert (json.loads(again)["n"], json.loads(again)["left_out"]) == (50, 45)
    assert other == "WARNING other: number 50 (and 45 more like it)"


@pytest.mark.parametrize(("name", "mode"), [("mine.log", "ab"), (logs.FILE, "wb")])
def test_a_file_that_is_not_ours_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 10)
    path = tmp_path / name
    with path.open(mode) as file:
        file.write(b"x" * 100)
        file.flush()
        logs.keep_small(file.fileno())
    assert path.stat().st_size == 100 and [one.name for one in tmp_path.iterdir()] == [name]


def test_very_many_different_events_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_A_MINUTE", 2)
    monkeypatch.setattr(logs, "_NAMES", 3)
    sparing = logs.Sparing()
    record = logging.LogRecord("x", logging.WARNING, "", 0, "", (), None)
    written = 0
    for n in range(100):
        record.msg = f"event {n}"
        written += sparing.filter(record)
    assert written == 5
    with pytest.raises(structlog.DropEvent):
        sparing(None, "info", {"event": "event 100"})
