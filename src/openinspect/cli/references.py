"""What a person means by a short name: sessions by how their id ends, repositories by name, folder or address. Looking up never adds anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.text import Text

from openinspect.problems import Invalid

from .client import CLONE_SECONDS, Client
from .console import error_console
from .text import one_line, program

KEY_REMEDY = (
    "For a real one set ANTHROPIC_API_KEY or OPENAI_API_KEY where the server runs, and start it again."
)


def find(api: Client, reference: str) -> str:
    """A session's id by its whole id, or by how it ends."""
    if re.fullmatch(r"ses_[A-Za-z0-9]{20,}", reference):
        return reference
    page = api.get("/sessions", limit=100)
    archived = api.get("/sessions", status="archived", limit=100)
    known = [one["id"] for one in [*page["items"], *archived["items"]]]
    found = [one for one in known if reference and one.endswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        what = f"{len(found)} sessions of the newest 100 end with “{reference}”."
    elif reference:
        what = f"No session of the newest 100 ends with “{reference}”."
    else:
        what = "An empty text names no session."
    raise Invalid("session_unclear", what, f"List them: {program()} sessions list")


def known_repository(api: Client, reference: str) -> dict[str, Any]:
    """A repository that is known, by its name, its id or its place. Raises ``Invalid`` with the names that are known."""
    known = api.get("/repositories")
    for one in known:
        if reference.lower() == one["name"].lower() or reference in (one["id"], one["location"]):
            return one
    if reference and Path(reference).is_dir():
        place = str(Path(reference).absolute())
        for one in known:
            if one["location"] == place:
                return one
    raise _unknown(reference, known)


def _unknown(reference: str, known: list[dict[str, Any]]) -> Invalid:
    names = ", ".join(one_line(one["name"]) for one in known[:20]) + (" …" if len(known) > 20 else "")
    return Invalid(
        "repository_unknown",
        f"No repository is called “{reference}”."
        + (f" Known are: {names}." if names else " None is known yet."),
        f"Make one known: {program()} repos add PATH",
    )


def repository(api: Client, reference: str) -> str:
    """The id of a repository: by name, by folder on the server's machine (which is made known), or by an address that is cloned first."""
    known = api.get("/repositories")
    for one in known:
        if one["name"].lower() == reference.lower():
            return one["id"]
    if "://" in reference or (":" in reference and not Path(reference).exists()):
        with error_console().status(Text(f"Cloning {one_line(reference)} …")):
            return api.post("/repositories", {"url": reference}, seconds=CLONE_SECONDS)["id"]
    folder = Path(reference).expanduser()
    # a bare word that is no folder here was meant as a name
    if not reference or (
        folder.parts == (reference,) and not folder.is_dir() and reference not in (".", "..")
    ):
        raise _unknown(reference, known)
    return api.post("/repositories", {"path": str(folder.absolute())})["id"]
