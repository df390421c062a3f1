"""Addresses that may be cloned. What comes out of here is safe to hand to git and to store: no option, no credential, an allowed scheme."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from ..errors import CloneRefused

MAX_ADDRESS = 2_000
_SCP = re.compile(
    r"^(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^/:].*|/(?!/).*)$"
)
_HOST = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])$")
_USER = re.compile(r"^[A-Za-z0-9._][A-Za-z0-9._-]*$")


class CloneAddress(NamedTuple):
    url: str
    scheme: Literal["https", "ssh", "file"]
    name: str
    """A name for the repository, taken from the address's last part."""
    path: str
    """Of a file URL the folder, else the path on the host."""


def is_address(text: str) -> bool:
    """Whether a person means an address and not a folder: it has a scheme, or is ``host:path`` as git and ssh write it."""
    return "://" in text or (not text.startswith(("/", ".", "~")) and _SCP.match(text) is not None)


def clone_address(text: str) -> CloneAddress:
    """Read what a person wrote. Raises ``CloneRefused``."""
    text = text.strip()
    if not text or len(text) > MAX_ADDRESS or any(not c.isprintable() or c.isspace() for c in text):
        raise CloneRefused(
            "This is not an address that git could clone", "Give an https://, ssh:// or file:// URL."
        )
    if "://" not in text:
        found = _SCP.match(text)
        if found is None:
            raise CloneRefused(f"{text!r} is no URL", "Give an https://, ssh:// or file:// URL, or a folder.")
        user = f"{found['user']}@" if found["user"] else ""
        text = f"ssh://{user}{found['host']}/{found['path'].lstrip('/')}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise CloneRefused("The address can't be read", "Check host and port in it.") from error
    scheme = parts.scheme.lower()
    if scheme not in ("https", "ssh", "file"):
        raise CloneRefused(
            f"Addresses with {scheme}:// are not cloned",
            "Use https://, ssh:// or file:// (nothing else is allowed).",
        )
    if parts.password is not None or (parts.username is not None and scheme != "ssh"):
        raise CloneRefused(
            "The address has credentials in it, which would be stored and logged",
            "Leave them out: use an ssh:// address with the server's own key for a private repository.",
        )
    if parts.query or parts.fragment or "%00" in text:
        raise CloneRefused("The address has a part that git does not know", "Leave out what follows ? or #.")
    if scheme == "file":
        return _file(unquote(parts.path), parts.netloc)
    host = parts.hostname or ""
    bracketed = f"[{host}]" if ":" in host else host
    if not _HOST.match(bracketed) or (parts.username is not None and not _USER.match(parts.username)):
        raise CloneRefused("The address's host or user name is not valid", "Check it for typing errors.")
    if parts.path.strip("/") == "" or parts.path.startswith("/-"):
        raise CloneRefused(
            "The address names no repository", "Add the repository's path, such as /owner/name.git."
        )
    user = f"{parts.username}@" if parts.username else ""
    where = f"{bracketed}:{port}" if port else bracketed
    path = parts.path.rstrip("/")
    return CloneAddress(f"{scheme}://{user}{where}{path}", scheme, _name(path), path)


def _file(path: str, host: str) -> CloneAddress:
    if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise CloneRefused(
            "A file:// address needs an absolute path on the server", "Write file:///path/to/folder."
        )
    path = path.rstrip("/") or "/"
    return CloneAddress(f"file://{quote(path)}", "file", _name(path), path)


def _name(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    last = parts[-1] if parts else ""
    if last == ".git" and len(parts) > 1:
        last = parts[-2]
    return repository_name(last.removesuffix(".git"))


def repository_name(wish: str) -> str:
    """``wish`` as a name that may stand in addresses and be a folder's name; at most 100 characters."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", wish).strip("-.")[:100].removesuffix(".git").strip("-.")
    return cleaned or "repository"
