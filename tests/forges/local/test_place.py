"""Which folders are taken for a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from openinspect.forges import errors
from openinspect.forges.local.clean_dir import clean_git_dir
from openinspect.forges.local.place import locate, work_tree_git_dir
from openinspect.testing.repositories import SampleRepository, git


def test_every_shape_of_a_repository_is_found(tmp_path: Path) -> None:
    work = SampleRepository.create(tmp_path / "work", {"a": "1"})
    bare = work.bare_copy(tmp_path / "bare.git")
    work.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    assert locate(work.path)[:2] == (work.path / ".git", work.path)
    assert locate(work.path / ".git")[:2] == (work.path / ".git", work.path)
    assert locate(bare.path)[:2] == (bare.path, None)
    assert locate(tmp_path / "linked")[:2] == (work.path / ".git", tmp_path / "linked")
    assert work_tree_git_dir(tmp_path / "linked") == work.path / ".git" / "worktrees" / "linked"
    git("init", "-q", "--separate-git-dir", str(tmp_path / "apart"), str(tmp_path / "separate"))
    assert locate(tmp_path / "separate")[:2] == (tmp_path / "apart", tmp_path / "separate")
    (tmp_path / "link").symlink_to(work.path)
    assert locate(tmp_path / "link").work_tree == work.path


def test_what_is_no_repository_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(errors.RepositoryNotFound):
        locate(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    (tmp_path / "half" / ".git").mkdir(parents=True)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / ".git").write_text("gibberish")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / ".git").write_text(f"gitdir: {tmp_path}/nowhere\n")
    for name in ("file", "half", "wrong"):
        with pytest.raises(errors.RepositoryUnusable) as unusable:
            locate(tmp_path / name)
        assert unusable.value.remedy
    with pytest.raises(errors.ForgeError):
        locate(tmp_path / "dangling")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(errors.ForgeError):
        locate(tmp_path / "loop")


def test_the_clean_folder_is_made_again_and_not_taken_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    first = clean_git_dir("sha1")
    assert clean_git_dir("sha1") == first and clean_git_dir("sha256") != first
    (first / "config").unlink()
    assert (clean_git_dir("sha1") / "config").read_text().startswith("[core]")
    base = first.parent
    base.chmod(0o777)  # anybody could have put anything there
    assert clean_git_dir("sha1").parent != base
