"""What somebody gave on the command line or in the environment, looked at before anything is done with it.

Bytes that are no UTF-8 come to Python as lone surrogates, which can be neither sent nor printed: they end a command before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from openinspect.problems import Invalid, Unavailable
from openinspect.settings import is_own_variable, is_text

from .text import program

_SHOWN = 60


def check(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Raises ``Invalid`` naming the first argument, or variable of ours, that is no text. A variable's value may be secret and is not repeated."""
    for place, word in enumerate(arguments, 1):
        if not is_text(word):
            shown = word.encode("ascii", "backslashreplace").decode()[:_SHOWN]
            raise _no_text(f"Argument {place} ({shown})")
    for name, value in environment.items():
        if not is_text(value) and is_own_variable(name):
            raise _no_text(name)


def _no_text(what: str) -> Invalid:
    return Invalid(
        "not_utf8",
        f"{what} is not valid UTF-8.",
        "Write it in UTF-8, rename the file if it is one's name, and see that the terminal's locale is a UTF-8 one: locale",
    )


def elsewhere(url: str, token: str | None) -> tuple[str, str]:
    """Address and token of a server elsewhere, when they can be such. Raises ``Invalid`` and ``Unavailable``, which don't repeat the token."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, usable = None, False
    if parts is not None and parts.scheme not in ("http", "https"):
        raise Invalid(
            "url_invalid",
            f"OPENINSPECT_URL needs http:// or https:// before the server's name: {url}",
            "Write it as the browser shows it, such as https://inspect.example.com or http://127.0.0.1:8910",
        )
    if not usable or any(letter.isspace() for letter in url):
        raise Invalid(
            "url_invalid",
            f"OPENINSPECT_URL is no address of a server: {url}",
            "Write it as the browser shows it, such as https://inspect.example.com or http://127.0.0.1:8910",
        )
    remedy = (
        f"Make one where the server runs, `{program()} tokens create NAME`, or in the page's settings; then: "
        "export OPENINSPECT_TOKEN=…"
    )
    if not token:
        raise Unavailable("token_missing", "OPENINSPECT_URL is set, but not OPENINSPECT_TOKEN.", remedy)
    if not all("!" <= letter <= "~" for letter in token):
        raise Invalid(
            "token_invalid",
            "OPENINSPECT_TOKEN is no token: it has characters that none has (a space, a line's end, an accent).",
            remedy,
        )
    return url.rstrip("/"), token
