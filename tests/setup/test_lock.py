"""The locks that are committed, and the completion of npm's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from setup.lock import complete

ROOT = Path(__file__).parents[2]
PYTHON_LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
NPM_LOCKS = [
    path
    for path in (
        ROOT / folder / "package-lock.json" for folder in ("toolbox", "toolbox/opencode-home", "web")
    )
    if path.exists()
]


def a_lock(**packages: dict[str, Any]) -> dict[str, Any]:
    return {"lockfileVersion": 3, "packages": {"": {}, **packages}}


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda path: path.stem)
def test_python_packages_are_pinned_with_hashes_and_no_index(lock: Path) -> None:
    text = lock.read_text()
    names = re.findall(r"^[a-z0-9][\w.-]*(?:\[[^\]]*\])?==", text, re.MULTILINE)
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(names) == len(entries) > 0
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=lambda path: path.parent.name)
def test_npm_locks_name_no_registry_and_are_complete(lock: Path) -> None:
    content = json.loads(lock.read_text())
    assert [place for place, entry in content["packages"].items() if "resolved" in entry] == []
    assert complete(content) == content, "run `make lock`"


def test_the_agent_and_its_plugin_library_are_of_one_version() -> None:
    agent = json.loads((ROOT / "toolbox" / "package.json").read_text())["dependencies"]["opencode-ai"]
    plugin = json.loads((ROOT / "toolbox" / "opencode-home" / "package.json").read_text())["dependencies"]
    assert plugin == {"@opencode-ai/plugin": agent}


def test_builds_for_other_platforms_are_added() -> None:
    lock = a_lock(
        **{
            "node_modules/tool": {
                "version": "2.0.0",
                "resolved": "https://registry.example.com/tool.tgz",
                "optionalDependencies": {
                    "@tool/linux-x64": "2.0.0",
                    "@tool/win32-arm64": "2.0.0",
                    "@tool/core-wasm32-wasi": "2.0.0",
                    "extra": "2.0.0",
                    "@tool/darwin-x64": "^2.0.0",
                },
            },
            "node_modules/@tool/linux-x64": {"version": "2.0.0", "integrity": "sha512-x"},
        }
    )
    packages = complete(lock)["packages"]
    assert packages["node_modules/@tool/win32-arm64"] == {
        "version": "2.0.0",
        "optional": True,
        "os": ["win32"],
        "cpu": ["arm64"],
    }
    assert packages["node_modules/@tool/core-wasm32-wasi"]["cpu"] == ["wasm32"]
    assert packages["node_modules/@tool/linux-x64"]["integrity"] == "sha512-x"
    assert "node_modules/extra" not in packages and "node_modules/@tool/darwin-x64" not in packages
    assert "resolved" not in packages["node_modules/tool"]
    assert complete(complete(lock)) == complete(lock)


def test_a_build_that_lies_deeper_is_not_added_again() -> None:
    lock = a_lock(
        **{
            "node_modules/a": {"version": "1.0.0", "optionalDependencies": {"a-linux-x64": "1.0.0"}},
            "node_modules/a/node_modules/a-linux-x64": {"version": "1.0.0"},
        }
    )
    assert "node_modules/a-linux-x64" not in complete(lock)["packages"]
