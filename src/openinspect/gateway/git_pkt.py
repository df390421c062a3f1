"""Git's answers read as they pass: which refs a code host shows, and which pushed refs it has accepted.

Both take bytes piece by piece and hold no more than one packet (64 KiB) or one report (256 KiB). What they can't understand raises ``BrokenAnswer``.
"""

from __future__ import annotations

from dulwich.errors import GitProtocolError
from dulwich.protocol import PktLineParser, pkt_line

MAX_REPORT_BYTES = 256 * 1024
_SHOWN = (b"refs/heads/", b"refs/tags/")


class BrokenAnswer(Exception):
    """The code host's answer is not git's protocol."""


class _Packets:
    """Splits a stream into packets by dulwich's reader; the special packets 0001 and 0002 come as they are."""

    def __init__(self) -> None:
        self._found: list[bytes | None] = []
        self._parser = PktLineParser(self._found.append)

    def feed(self, data: bytes) -> list[bytes | None]:
        try:
            self._parser.parse(data)
        except GitProtocolError as error:
            raise BrokenAnswer(str(error)) from error
        found = list(self._found)
        self._found.clear()
        return found


class RefFilter:
    """Leaves only HEAD, branches and tags in an advertisement (version 0 and 1) or in the answer to ``ls-refs`` (version 2).

    An advertisement's capabilities stand behind its first ref; when that one is hidden they move to the next.
    """

    def __init__(self) -> None:
        self._packets = _Packets()
        self._capabilities: bytes | None = None
        self._is_v2 = False

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._pass(packet) for packet in self._packets.feed(data))

    def _pass(self, packet: bytes | None) -> bytes:
        if packet is None:
            if self._capabilities is None:
                return b"0000"
            # every ref was hidden: this is how git shows a repository without refs
            digits = 64 if b"object-format=sha256" in self._capabilities else 40
            line = b"0" * digits + b" capabilities^{}\0" + self._capabilities
            self._capabilities = None
            return pkt_line(line) + b"0000"
        if self._is_v2 or packet.startswith((b"#", b"version ", b"shallow ", b"unborn ")):
            self._is_v2 = self._is_v2 or packet.startswith(b"version 2")
            return pkt_line(packet)
        text, nul, capabilities = packet.partition(b"\0")
        if nul:
            self._capabilities = capabilities
        name = text.rstrip(b"\n").split(b" ")[1] if b" " in text else b""
        if not (name in (b"HEAD", b".have", b"capabilities^{}") or name.startswith(_SHOWN)):
            return b""
        if self._capabilities is not None:
            text, self._capabilities = text.rstrip(b"\n") + b"\0" + self._capabilities, None
        return pkt_line(text)


class ReportReader:
    """Reads which refs a push's answer says are accepted, with or without side bands."""

    def __init__(self, side_band: bool) -> None:
        self._outer = _Packets() if side_band else None
        self._inner = _Packets()
        self._size = 0
        self.accepted: set[bytes] = set()

    def feed(self, data: bytes) -> None:
        if self._outer is None:
            return self._report(data)
        for packet in self._outer.feed(data):
            if packet and packet[0] == 1:
                self._report(packet[1:])

    def _report(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_REPORT_BYTES:
            raise BrokenAnswer("the report is too long")
        for packet in self._inner.feed(data):
            if packet and packet.startswith(b"ok "):
                self.accepted.add(packet[3:].rstrip(b"\n"))
