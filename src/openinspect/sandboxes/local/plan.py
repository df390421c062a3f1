"""What a holder is told: ``plan.json`` in the box's folder, and the names of what lies beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

IDS = 65536
"""User and group ids that a box has."""
AGENT = 1000
"""User and group id of the agent in a box."""

PLAN = "plan.json"
RUNTIME = "runtime.json"
STATE = "state"
"""The runtime's reserved space."""
CREATE_LOCK = "create.lock"
HOLDER_LOCK = "holder.lock"
"""Held by the holder for as long as it lives."""
HOLDER = "holder.json"
ENDED = "ended.json"
RUNTIME_LOG = "runtime.log"
HOLDER_LOG = "holder.log"


@dataclass(frozen=True)
class Bounds:
    memory_mib: int | None
    cpu_cores: float | None
    processes: int | None
    disk_mib: int | None


@dataclass(frozen=True)
class Plan:
    """Paths are the host's, but for ``command`` and ``environment``."""

    box_id: str
    box_dir: str
    disk_dir: str
    bwrap: str
    uid_base: int | None
    """First host id of the box, when run by root. None: run by an ordinary user, with the two ranges below."""
    subuids: tuple[int, int] | None
    """First id and count from ``/etc/subuid``."""
    subgids: tuple[int, int] | None
    bounds: Bounds
    door: str
    toolbox: str
    python: str | None
    """The interpreter's prefix, where it isn't below ``/usr``."""
    sites: tuple[str, ...]
    package: str
    """This package's own folder."""
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> bool:
        return self.uid_base is not None

    def host_id(self, inside: int) -> int:
        """The id to give a file to, as the holder sees it: an ordinary user's holder is in the box's own user namespace."""
        return inside if self.uid_base is None else self.uid_base + inside


def load(box_dir: Path) -> Plan:
    data: dict[str, Any] = json.loads((box_dir / PLAN).read_text())
    for name in ("subuids", "subgids", "sites", "command"):
        data[name] = None if data[name] is None else tuple(data[name])
    return Plan(**{**data, "bounds": Bounds(**data["bounds"])})


def save(plan: Plan) -> None:
    write_whole(Path(plan.box_dir) / PLAN, json.dumps(asdict(plan)))


def write_whole(path: Path, text: str) -> None:
    """Written beside and renamed, so that a reader sees all of it or nothing; mode 0600."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    beside.rename(path)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
