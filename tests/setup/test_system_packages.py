from __future__ import annotations

import os
from pathlib import Path

import pytest

from setup import system_packages
from setup.report import Failure
from setup.system_packages import RUNNING, install, missing


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which only the programs in this folder exist."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(system_packages, "_SBIN", str(tmp_path))
    return tmp_path


def put(binaries: Path, name: str, script: str = "exit 0") -> None:
    (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
    (binaries / name).chmod(0o755)


def test_programs_that_are_there_are_not_asked_for(binaries: Path) -> None:
    assert {p.package for p in missing(dev=False)} >= {"bubblewrap", "uidmap", "git", "ripgrep", "e2fsprogs"}
    for program in RUNNING:
        put(binaries, program.command)
    assert [p.package for p in missing(dev=False)] == []
    assert [p.package for p in missing(dev=True)] == ["chromium"]
    put(binaries, "google-chrome")
    assert missing(dev=True) == []


def test_without_root_it_says_exactly_what_to_run(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(binaries, "apt-get", "exit 99")
    put(binaries, "sudo", "exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure) as caught:
        install([p for p in RUNNING if p.command in ("bwrap", "rg")])
    assert (
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends bubblewrap ripgrep"
        in caught.value.remedy
    )


def test_without_apt_it_names_the_packages(binaries: Path) -> None:
    with pytest.raises(Failure, match="bubblewrap") as caught:
        install([p for p in RUNNING if p.command == "bwrap"])
    assert "package manager" in caught.value.remedy
