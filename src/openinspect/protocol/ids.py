"""Ids: a prefix that names the kind, then 120 random bits, or for some a time first so that they sort by age.

Lower-case base 32 without padding, so that an id may stand in a host name, a branch name or a file name.
"""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def _base32(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_id(prefix: str) -> str:
    """A new id such as ``ses_0k3v…``: 10 characters of milliseconds since 1970, then 14 random ones (70 bits)."""
    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(70), 14)}"


def short_id(identifier: str) -> str:
    """The last eight characters: random, and short enough for a branch name."""
    return identifier[-8:]


def new_secret(prefix: str) -> str:
    """A bearer secret of 256 random bits, with a prefix that secret scanners can be taught (``oi_pat_…``)."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"
