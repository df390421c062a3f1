"""A picture is taken when it is one of four kinds and all there; what only begins like one is not."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openinspect.sessions.pictures import is_whole, media_type_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int) -> bytes:
    """Of these sizes; its points are of one row, as nobody looks at them here."""
    sizes = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    points = zlib.compress(b"\0" + b"\1\2\3" * 3)
    return SIGNATURE + _chunk(b"IHDR", sizes) + _chunk(b"IDAT", points) + _chunk(b"IEND", b"")


def _segment(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


JPEG = (
    b"\xff\xd8"
    + _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    + _segment(0xC2, struct.pack(">BHHB", 8, 2, 3, 1) + b"\1\x11\0")
    + _segment(0xDA, b"\1\1\0\0\x3f\0")
    + b"points\xff\0\xff\xd9"
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
WEBP = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
LOSSLESS = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
EXTENDED = b"WEBP" + b"VP8X\x0a\0\0\0" + b"\0" * 4 + b"\2\0\0\1\0\0" + LOSSLESS[12:]
WHOLE = {
    "png": png(3, 2),
    "jpeg": JPEG,
    "gif": GIF,
    "webp": WEBP,
    "lossless webp": LOSSLESS,
    "extended webp": b"RIFF" + struct.pack("<I", len(EXTENDED)) + EXTENDED,
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_taken_and_what_is_cut_off_is_not(name: str) -> None:
    content = WHOLE[name]
    assert media_type_of(content) == f"image/{name.split()[-1]}"
    assert is_whole(content)
    for end in range(len(content.rstrip(b"\0"))):  # a byte that only fills up may be missing
        assert not is_whole(content[:end]), end


def test_what_cameras_put_behind_a_picture_does_no_harm() -> None:
    assert is_whole(WHOLE["png"] + b"more")
    assert is_whole(JPEG + b"more")


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a<html><script>alert(1)</script>",
        b"RIFF\x04\0\0\0WEBP",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        SIGNATURE + b"\0" * 64,
        png(0, 0),
        png(60_000, 60_000),
        png(2**31 - 1, 2**31 - 1),
        WHOLE["png"][:-8] + b"\0" * 8,
        GIF[:13] + b";",
        b"BM" + b"\0" * 100,
        b"",
    ],
)
def test_what_only_begins_like_a_picture_is_refused(content: bytes) -> None:
    assert not is_whole(content)


@given(st.sampled_from(list(WHOLE.values())), st.binary(max_size=40), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_it_fail(content: bytes, other: bytes, start: int, length: int) -> None:
    is_whole(content[:start] + other + content[start + length :])
