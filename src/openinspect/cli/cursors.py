"""Where one left each session, in ``cli-cursors.json`` in the data folder, so that ``sessions attach`` goes on from there.

It is a convenience: without a data folder here (the server is elsewhere) nothing is kept, and of two commands that end at the same moment
one may be forgotten. Then ``attach`` shows a little more than is new. ``db restore`` forgets all. Nothing here fails a command.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

_FILE = "cli-cursors.json"
_MOST = 500


def read(folder: Path) -> dict[str, int]:
    """The last event that was shown of each session, by its id."""
    try:
        found = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(folder: Path, session_id: str, seq: int) -> str | None:
    """Note the last event that was shown. Gives the reason when that can't be done."""
    if not folder.is_dir():
        return None
    others = {one: place for one, place in read(folder).items() if one != session_id}
    kept = dict(list({**others, session_id: seq}.items())[-_MOST:])
    try:
        # a name of its own: another command may be writing at the same time
        descriptor, fresh = tempfile.mkstemp(dir=folder, prefix="cli-cursors-", suffix=".new")
    except OSError as error:
        return error.strerror or type(error).__name__
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(kept, file)
        Path(fresh).replace(folder / _FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(fresh).unlink()
        return error.strerror or type(error).__name__
    return None


def forget(folder: Path) -> None:
    """Forget all of them: the database was put back, and its logs are not the ones that were shown."""
    with contextlib.suppress(OSError):
        (folder / _FILE).unlink()
