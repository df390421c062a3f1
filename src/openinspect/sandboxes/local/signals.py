"""SIGTERM and SIGCHLD as something to select on, for a holder."""

from __future__ import annotations

import contextlib
import os
import signal


class Signals:
    """SIGHUP and SIGINT are the server's business, and ignored."""

    def __init__(self) -> None:
        self._stop = False
        self.read_end, write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._wanted)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)

    def _wanted(self, *_: object) -> None:
        self._stop = True

    def stop_wanted(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_end, 4096)
        wanted, self._stop = self._stop, False
        return wanted
