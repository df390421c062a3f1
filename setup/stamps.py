"""What each step was done with: a hash of its inputs, kept in ``.tools/stamps.json`` once the step has succeeded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from setup.report import ROOT, TOOLS

_FILE = TOOLS / "stamps.json"


def digest(*inputs: str | Path) -> str:
    """Hash strings as they are and files (or whole folders) by name and content. A missing file counts as such."""
    total = hashlib.sha256()
    for item in inputs:
        for name, content in [("", item.encode())] if isinstance(item, str) else _contents(item):
            total.update(f"{len(name)}:{name}{len(content)}:".encode())
            total.update(content)
    return total.hexdigest()


def _contents(path: Path) -> Iterable[tuple[str, bytes]]:
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.name not in _NEVER_INPUTS:
                yield from _contents(child)
    elif path.is_file():
        yield str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path), path.read_bytes()
    else:
        yield str(path), b"(missing)"


_NEVER_INPUTS = {"node_modules", "dist", "__pycache__", ".vite", "test-results"}


def _read() -> dict[str, str]:
    try:
        stamps = json.loads(_FILE.read_text())
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def current(step: str) -> str:
    """What the step was last done with; empty when never."""
    return str(_read().get(step, ""))


def put(step: str, value: str) -> None:
    """Note that the step has succeeded with these inputs. An empty value forgets it (do so before the step is begun)."""
    stamps = _read()
    stamps[step] = value
    _FILE.parent.mkdir(parents=True, exist_ok=True)
    fresh = _FILE.with_suffix(".new")
    fresh.write_text(json.dumps(stamps, indent=2, sort_keys=True) + "\n")
    fresh.replace(_FILE)
