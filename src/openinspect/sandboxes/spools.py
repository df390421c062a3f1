"""What a dead runtime's spool still holds, read by the server from the folder that was the runtime's reserved space.

The files belong to the runtime's own id (uid 0 in the box), in a folder of mode 0700: the agent, uid 1000 there, can neither read nor write
them. Whoever could forge them has become the runtime, and could have said the same over the bridge with its token; so what is read here is
believed as much as that, and no more. What the bridge can't do, a file could: lead the server, which may be root, somewhere else. Therefore no
link is followed, nothing but regular files is opened, and how much is read is bounded, whatever the folder holds.

Power loss, and a runtime that was killed while it wrote, leave torn ends: a record counts when its checksum fits, and nothing behind the
first that does not.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from openinspect.runtime.spool import MAX_RECORD_BYTES, SEGMENT_BYTES, whole_records

from .provider import MOST_SPOOLED, Spooled

MOST_FILES = 4_096
MOST_BYTES = 192 * 1024 * 1024
"""Of all segments together: more than a runtime keeps."""
_LONGEST_SEGMENT = SEGMENT_BYTES + MAX_RECORD_BYTES + 4096
_AT_ONCE_BYTES = 4 * 1024 * 1024
_SEGMENT = re.compile(r"([0-9]{20})\.seg")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: a named pipe would wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read(state: Path, after: int) -> Spooled:
    """``SandboxProvider.spooled`` for a reserved space that lies in a folder of this host. Raises ``OSError`` when the disk can't be read."""
    nothing = Spooled(after + 1, [])
    try:
        outer = os.open(state, _FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return nothing
    try:
        folder = os.open("spool", _FOLDER, dir_fd=outer)
    except (FileNotFoundError, NotADirectoryError):
        # NotADirectoryError is also what a link is answered with.
        return nothing
    finally:
        os.close(outer)
    try:
        return _read(folder, after)
    finally:
        os.close(folder)


def _read(folder: int, after: int) -> Spooled:
    segments = _segments(folder)
    begin = max((i for i, (first, _) in enumerate(segments) if first <= after + 1), default=0)
    number = segments[begin][0] if segments else after + 1
    result = Spooled(max(number, after + 1), [])
    size = 0
    for first, name in segments[begin:]:
        if first != number:
            break
        for record in whole_records(_content(folder, name)):
            number += 1
            if number <= after + 1:
                continue
            result.records.append(record)
            size += len(record)
            if size >= _AT_ONCE_BYTES or len(result.records) == MOST_SPOOLED:
                return result
    return result


def _segments(folder: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str, int]] = []
    with os.scandir(folder) as entries:
        for seen, entry in enumerate(entries):
            if seen == MOST_FILES:
                break
            named = _SEGMENT.fullmatch(entry.name)
            if named is not None and entry.is_file(follow_symlinks=False):
                found.append((int(named[1]), entry.name, entry.stat(follow_symlinks=False).st_size))
    kept: list[tuple[int, str]] = []
    total = 0
    for first, name, size in sorted(found):
        total += size
        if total > MOST_BYTES:
            break
        kept.append((first, name))
    return kept


def _content(folder: int, name: str) -> bytes:
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return b""
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return b""
        return opened.read(_LONGEST_SEGMENT)
