"""What kind of picture some bytes are, and whether they are all of it.

Only the frame that each kind of file has is looked at: sizes, blocks, an end. Nothing is decompressed, so nothing that is small here can grow.
What follows behind a PNG's or a JPEG's end is let pass, as cameras and telephones put things there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

MAX_POINTS = 200_000_000
_MAX_BLOCKS = 500_000
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class _Broken(Exception):
    pass


def media_type_of(content: bytes) -> str | None:
    """By the first bytes; what the sender calls the file is not believed."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return None


def is_whole(content: bytes) -> bool:
    """Whether a picture of one of these kinds has all its blocks, and a size from 1 to ``MAX_POINTS``. Takes up to half a second (many small blocks)."""
    look = {"image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp}
    try:
        width, height = look[media_type_of(content) or ""](content)
    except (KeyError, IndexError, _Broken):
        return False
    return 0 < width * height <= MAX_POINTS


def _big(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(_piece(content, at, size))


def _little(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(_piece(content, at, size), "little")


def _piece(content: bytes, at: int, size: int) -> bytes:
    if at + size > len(content):
        raise _Broken
    return content[at : at + size]


def _png(content: bytes) -> tuple[int, int]:
    at, kinds = 8, set[bytes]()
    if _piece(content, 8, 8) != b"\0\0\0\x0dIHDR":
        raise _Broken
    for _ in range(_MAX_BLOCKS):
        size, kind = _big(content, at, 4), _piece(content, at + 4, 4)
        _piece(content, at + 8, size + 4)
        if zlib.crc32(memoryview(content)[at + 4 : at + 8 + size]) != _big(content, at + 8 + size, 4):
            raise _Broken
        kinds.add(kind)
        at += size + 12
        if kind == b"IEND":
            break
    if not {b"IDAT", b"IEND"} <= kinds:
        raise _Broken
    return _big(content, 16, 4), _big(content, 20, 4)


def _jpeg(content: bytes) -> tuple[int, int]:
    at, found = 2, (0, 0)
    for _ in range(_MAX_BLOCKS):
        if content[at] != 0xFF:
            raise _Broken
        kind = content[at + 1]
        if kind == 0xFF:  # filling
            at += 1
            continue
        size = _big(content, at + 2, 2)
        _piece(content, at + 2, size)
        if kind in _JPEG_SIZES:
            found = (_big(content, at + 7, 2), _big(content, at + 5, 2))
        if kind == 0xDA:  # from here on the points themselves, and perhaps more blocks
            if content.find(b"\xff\xd9", at) < 0:
                raise _Broken
            return found
        if kind in (0xD8, 0xD9) or size < 2:
            raise _Broken
        at += 2 + size
    raise _Broken


def _gif(content: bytes) -> tuple[int, int]:
    found = (_little(content, 6, 2), _little(content, 8, 2))
    at, pictures = 13 + _colours(content[10]), 0
    for _ in range(_MAX_BLOCKS):
        match content[at]:
            case 0x3B if pictures:
                return found
            case 0x2C:
                pictures += 1
                at = _behind(content, at + 11 + _colours(content[at + 9]))
            case 0x21:
                at = _behind(content, at + 2)
            case _:
                raise _Broken
    raise _Broken


def _colours(packed: int) -> int:
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _behind(content: bytes, at: int) -> int:
    """The place behind a row of sub-blocks."""
    for _ in range(_MAX_BLOCKS):
        size = content[at]
        at += size + 1
        if size == 0:
            return at
    raise _Broken


def _webp(content: bytes) -> tuple[int, int]:
    size = _little(content, 4, 4) + 8
    if size + size % 2 != len(content) + len(content) % 2:
        raise _Broken
    kinds: dict[bytes, int] = {}
    for kind, place in _webp_chunks(content):
        kinds.setdefault(kind, place)
    if b"VP8X" in kinds and kinds.keys() & {b"VP8 ", b"VP8L", b"ANMF"}:
        place = kinds[b"VP8X"]
        return _little(content, place + 4, 3) + 1, _little(content, place + 7, 3) + 1
    if b"VP8 " in kinds:
        place = kinds[b"VP8 "]
        if _piece(content, place + 3, 3) != b"\x9d\x01\x2a":
            raise _Broken
        return _little(content, place + 6, 2) & 0x3FFF, _little(content, place + 8, 2) & 0x3FFF
    if b"VP8L" in kinds:
        place = kinds[b"VP8L"]
        if content[place] != 0x2F:
            raise _Broken
        sizes = _little(content, place + 1, 4)
        return (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
    raise _Broken


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    at = 12
    for _ in range(_MAX_BLOCKS):
        if at >= len(content):
            return
        size = _little(content, at + 4, 4)
        _piece(content, at + 8, size)
        yield content[at : at + 4], at + 8
        at += 8 + size + size % 2
    raise _Broken
