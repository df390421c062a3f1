"""What the runtime prints, kept in two files of bounded size: the newer one and, with ``.1``, the one before."""

from __future__ import annotations

import os
import time
from pathlib import Path

_HALF = 512 * 1024
TAIL = 16 * 1024


class Output:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._open = True
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    @property
    def descriptors(self) -> list[int]:
        """To select on."""
        return [self._read_end] if self._open else []

    def started(self) -> None:
        """Whoever prints has been forked: keep only the reading end, so that its end is seen."""
        os.close(self.write_end)

    def read_some(self) -> None:
        if not self._open:
            return
        try:
            chunk = os.read(self._read_end, 65536)
        except BlockingIOError:
            return
        if not chunk:
            self._open = False
            return
        if self._size + len(chunk) > _HALF:
            os.close(self._file)
            self._path.rename(self._path.with_name(self._path.name + ".1"))
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = 0
        os.write(self._file, chunk)
        self._size += len(chunk)

    def drain(self, seconds: float = 0.5) -> None:
        """What is still in the pipe after the last process ended."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            self.read_some()


def tail(path: Path, size: int = TAIL) -> str:
    """The last so many bytes of a log, as text."""
    data = b""
    for part in (path, path.with_name(path.name + ".1")):
        try:
            with part.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - (size - len(data))))
                data = file.read() + data
        except FileNotFoundError:
            continue
        if len(data) >= size:
            break
    return data[-size:].decode(errors="replace")
