"""OpenCode's ids of messages: 48 bits of time (milliseconds times 4096, and a counter), in hex, then 14 characters.

OpenCode puts messages in the order of their ids. The 14 characters of ours come from the prompt and the attempt, so that what was sent can
be found again when everything else was forgotten.
"""

from __future__ import annotations

import hashlib
import time

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MASK = (1 << 48) - 1


def suffix(prompt_id: str, attempt: int) -> str:
    """What the message of this prompt and attempt ends with."""
    number = int.from_bytes(hashlib.sha256(f"{prompt_id}/{attempt}".encode()).digest(), "big")
    digits: list[str] = []
    for _ in range(14):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def message_id(prompt_id: str, attempt: int, after: str | None = None) -> str:
    """A new id that sorts behind ``after``, the newest message of the session."""
    moment = (time.time_ns() // 1_000_000 << 12 | 1) & _MASK
    if after is not None:
        moment = max(moment, int(after[4:16], 16) + 1)
    return f"msg_{moment:012x}{suffix(prompt_id, attempt)}"
