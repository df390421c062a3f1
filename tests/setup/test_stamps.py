from __future__ import annotations

from pathlib import Path

import pytest

from setup import stamps
from setup.stamps import digest


@pytest.fixture(autouse=True)
def in_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "_FILE", tmp_path / "tools" / "stamps.json")


def test_content_names_and_absence_all_count(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    seen = {digest(folder)}
    (folder / "a.ts").write_text("1")
    seen.add(digest(folder))
    (folder / "a.ts").write_text("2")
    seen.add(digest(folder))
    (folder / "a.ts").rename(folder / "b.ts")
    seen.add(digest(folder))
    assert len(seen) == 4
    assert digest(tmp_path / "missing") != digest("")
    assert digest("ab", "c") != digest("a", "bc")


def test_what_is_built_or_installed_is_no_input(tmp_path: Path) -> None:
    before = digest(tmp_path)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "x.js").write_text("1")
    assert digest(tmp_path) == before


def test_a_step_is_noted_and_forgotten() -> None:
    assert stamps.current("web") == ""
    stamps.put("web", "abc")
    stamps.put("node", "def")
    assert (stamps.current("web"), stamps.current("node")) == ("abc", "def")
    stamps.put("web", "")
    assert (stamps.current("web"), stamps.current("node")) == ("", "def")


def test_a_broken_file_means_that_nothing_was_done() -> None:
    stamps.put("web", "abc")
    stamps._FILE.write_text("{")
    assert stamps.current("web") == ""
