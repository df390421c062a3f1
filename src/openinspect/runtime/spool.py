"""The on-disk spool: numbered records, kept until the control plane has counted them.

Numbers begin at 1 and have no gap. Records lie in segment files named by their first number, each record as length, CRC-32 and bytes. One
process writes (``SpoolWriter``); others may read what is there at the same time (``SpoolReader``), up to a number that the writer told them.

A crash can leave a torn last record: opening the spool cuts it off. Writes go to the page cache at once, so that ``kill -9`` of any process
loses nothing; ``begin_sync`` and ``finish_sync`` make them safe against the machine's own death. A spool belongs to one sandbox: opened for another, it starts anew.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from .files import append_whole

_HEADER = struct.Struct("<II")
SEGMENT_BYTES = 4 * 1024 * 1024
MAX_RECORD_BYTES = 3_500_000
"""So that one record always fits into a message of the bridge."""


def _segments(folder: Path) -> list[tuple[int, Path]]:
    """First number and path of every segment, in order."""
    return sorted((int(path.stem), path) for path in folder.glob("*.seg") if path.stem.isdigit())


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each record lies, up to the first that is not whole."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, offset)
        begin = offset + _HEADER.size
        offset = begin + length
        if length == 0 or offset > len(data) or zlib.crc32(memoryview(data)[begin:offset]) != checksum:
            return
        yield begin, offset


def _intact(path: Path) -> tuple[int, int]:
    """How many records from the start are whole, and where the last of them ends."""
    ends = [end for _, end in _spans(path.read_bytes())]
    return len(ends), ends[-1] if ends else 0


def whole_records(data: bytes) -> Iterator[bytes]:
    """The records of a segment whose writer is dead: what comes behind the first that is torn, or was never one, is left out."""
    for begin, end in _spans(data):
        yield data[begin:end]


class SpoolWriter:
    """The only writer. Every method is quick and synchronous; none waits for the disk.

    ``last`` is the number of the newest record (0: none yet), ``dropped`` the newest that needs not be kept.
    """

    def __init__(self, folder: Path, sandbox_id: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._segment_bytes = segment_bytes
        owner = folder / "owner"
        if not owner.exists() or owner.read_text(errors="replace") != sandbox_id:
            for _, path in _segments(folder):
                path.unlink()
            owner.write_text(sandbox_id)
        self._unsynced: list[int] = []
        self._sizes: list[tuple[int, int, Path]] = []
        """Closed segments: last number, bytes, path."""
        self._closed_bytes = 0
        self.last = 0
        self.dropped = 0
        self._open_newest()

    def _open_newest(self) -> None:
        segments = _segments(self._folder)
        expected: int | None = None
        active: tuple[int, Path] | None = None
        for index, (first, path) in enumerate(segments):
            if expected is not None and first != expected:
                for _, later in segments[index:]:
                    later.unlink()
                break
            count, size = _intact(path)
            torn = size < path.stat().st_size
            if torn:
                os.truncate(path, size)
            expected = first + count
            if active is not None:
                self._close_segment(active[0], active[1], first - 1)
            active = (first, path)
            self.last = expected - 1
            if torn:
                for _, later in segments[index + 1 :]:
                    later.unlink()
                break
        if segments:
            self.dropped = segments[0][0] - 1
        if active is None:
            active = (1, self._path(1))
        self._first, path = active
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:020d}.seg"

    def _close_segment(self, first: int, path: Path, last: int) -> None:
        size = path.stat().st_size
        self._sizes.append((last, size, path))
        self._closed_bytes += size

    @property
    def held_bytes(self) -> int:
        """What lies on the disk."""
        return self._closed_bytes + self._size

    def append(self, records: list[bytes]) -> int:
        """Append records and return the number of the last. Raises ``OSError`` (nothing of the batch is kept) when the disk refuses,
        ``ValueError`` for an empty or too long record."""
        if self._size >= self._segment_bytes:
            self._rotate()
        pieces: list[bytes] = []
        for record in records:
            if not 0 < len(record) <= MAX_RECORD_BYTES:
                raise ValueError(f"a spool record has 1 to {MAX_RECORD_BYTES} bytes, not {len(record)}")
            pieces.append(_HEADER.pack(len(record), zlib.crc32(record)))
            pieces.append(record)
        data = b"".join(pieces)
        append_whole(self._fd, self._size, data)
        self._size += len(data)
        self.last += len(records)
        return self.last

    def _rotate(self) -> None:
        first = self.last + 1
        fd = os.open(self._path(first), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._unsynced.append(self._fd)
        self._close_segment(self._first, self._path(self._first), self.last)
        self._fd, self._first, self._size = fd, first, 0

    def drop(self, counted: int) -> None:
        """Records up to this number need not be kept. Numbers above ``last`` make the next record follow them."""
        if counted > self.last:
            self.last = counted
            self._rotate()
        self.dropped = max(self.dropped, counted)
        if counted == self.last and self._size > self._segment_bytes // 16:
            self._rotate()
        while self._sizes and self._sizes[0][0] <= counted:
            _, size, path = self._sizes.pop(0)
            self._closed_bytes -= size
            path.unlink(missing_ok=True)

    def begin_sync(self) -> list[int]:
        """What ``finish_sync`` has to wait for, so that all appended until now is safe."""
        fds, self._unsynced = [*self._unsynced, os.dup(self._fd)], []
        return fds

    @staticmethod
    def finish_sync(fds: list[int]) -> None:
        """Wait for the disk; in another thread than the one that appends. Raises ``OSError``."""
        for fd in fds:
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        for fd in [*self._unsynced, self._fd]:
            os.close(fd)
        self._unsynced = []


class SpoolReader:
    """Reads records in order, from any number on that is still kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0
        self._offset = 0
        self._file: int | None = None
        self._end: int | None = None
        """First number of the following segment, once it is known."""

    def read(self, number: int, upto: int, max_records: int, max_bytes: int) -> tuple[int, list[bytes]]:
        """Whole records from ``number`` (or the oldest kept, if that is newer) up to ``upto``, and the number of the first: at least one
        record if there is any, else at most ``max_bytes`` together."""
        if number != self._next or self._file is None:
            self._seek(number)
        first = self._next
        records: list[bytes] = []
        size = 0
        while self._next <= upto and len(records) < max_records and self._file is not None:
            want = min(max_bytes - size, 1 << 20) if records else 1 << 20
            block = os.pread(self._file, max(want, _HEADER.size), self._offset)
            taken = self._split(block, records, upto, max_records)
            if taken == 0 and len(block) >= _HEADER.size:
                length, _ = _HEADER.unpack_from(block)
                if records and size + length > max_bytes:
                    break
                block = os.pread(self._file, _HEADER.size + length, self._offset)
                taken = self._split(block, records, upto, max_records)
            if taken == 0:
                if not self._following():
                    break
                continue
            size += taken
            if size >= max_bytes:
                break
        return first, records

    def _split(self, block: bytes, records: list[bytes], upto: int, max_records: int) -> int:
        """Take the whole records at the front of a block; returns how many bytes they have."""
        offset = 0
        while self._next <= upto and len(records) < max_records and offset + _HEADER.size <= len(block):
            length, _ = _HEADER.unpack_from(block, offset)
            end = offset + _HEADER.size + length
            if length == 0 or end > len(block):
                break
            records.append(block[offset + _HEADER.size : end])
            self._next += 1
            offset = end
        self._offset += offset
        return offset

    def _seek(self, number: int) -> None:
        self.close()
        segments = _segments(self._folder)
        fitting = [entry for entry in segments if entry[0] <= number] or segments[:1]
        if not fitting:
            self._next = number
            return
        first, path = fitting[-1]
        self._open(first, path)
        while self._next < number and self._file is not None:
            block = os.pread(self._file, 1 << 20, self._offset)
            if len(block) < _HEADER.size:
                return
            offset = 0
            while self._next < number and offset + _HEADER.size <= len(block):
                length, _ = _HEADER.unpack_from(block, offset)
                if length == 0:
                    return
                offset += _HEADER.size + length
                self._next += 1
            self._offset += offset

    def _open(self, first: int, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._next, self._offset = first, 0

    def _following(self) -> bool:
        """Go on with the next segment, if there is one that begins where this one ends."""
        path = self._folder / f"{self._next:020d}.seg"
        if self._offset == 0 or not path.exists():
            return False
        self.close()
        self._open(self._next, path)
        return True

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
