"""Which folders are taken for a repository."""

from __future__ import annotations

import os
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


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
SOMEBODY = 12345


@needs_root
@pytest.mark.parametrize("way", ["git file", "git link", "common folder", "link to the folder", "one owner"])
def test_who_points_at_another_s_repository_does_not_get_it(tmp_path: Path, way: str) -> None:
    private = SampleRepository.create(tmp_path / "private", {"key": "secret"})
    folder = tmp_path / "folder"
    if way == "link to the folder":
        folder.symlink_to(private.path)
        os.chown(folder, SOMEBODY, SOMEBODY, follow_symlinks=False)
    elif way == "common folder":
        folder.mkdir()
        own = folder / "own"
        (folder / ".git").write_text("gitdir: own")
        own.mkdir()
        (own / "commondir").write_text(str(private.path / ".git"))
    else:
        folder.mkdir()
        if way == "git link":
            (folder / ".git").symlink_to(private.path / ".git")
        else:
            (folder / ".git").write_text(f"gitdir: {private.path}/.git")
    if not folder.is_symlink():
        SampleRepository(folder).give_to(SOMEBODY, SOMEBODY)
    if way == "one owner":
        private.give_to(SOMEBODY, SOMEBODY)
        assert locate(folder)[:2] == (private.path / ".git", folder)
        return
    with pytest.raises(errors.RepositoryUnusable) as refused:
        locate(folder)
    assert (
        f"user id {SOMEBODY}" in refused.value.reason and str(private.path / ".git") in refused.value.reason
    )
    assert refused.value.remedy


@needs_root
@pytest.mark.parametrize("form", ["absolute", "relative", "quoted", "of a second one", "a link"])
def test_objects_are_not_borrowed_from_another_user(tmp_path: Path, form: str) -> None:
    private = SampleRepository.create(tmp_path / "private", {"key": "secret"})
    work = SampleRepository.create(tmp_path / "work", {"a": "1"})
    objects, alternates = private.path / ".git" / "objects", work.path / ".git" / "objects/info/alternates"
    text = {"relative": "../../../private/.git/objects", "quoted": f'"{objects}"'}.get(form, str(objects))
    if form == "of a second one":
        between = SampleRepository.create(tmp_path / "between", {"b": "1"})
        (between.path / ".git" / "objects/info/alternates").write_text(text + "\n")
        between.give_to(SOMEBODY, SOMEBODY)
        text = str(between.path / ".git" / "objects")
    if form == "a link":
        (work.path / ".git/objects/pack").rmdir()
        (work.path / ".git/objects/pack").symlink_to(objects / "pack")
    else:
        alternates.write_text(f"# mirror\n/gone\n{text}\n")
    if form != "of a second one":
        assert locate(work.path).git_dir == work.path / ".git"
    SampleRepository(work.path).give_to(SOMEBODY, SOMEBODY)
    with pytest.raises(errors.RepositoryUnusable) as refused:
        locate(work.path)
    assert "borrows objects from" in refused.value.reason and "git repack" in refused.value.remedy
    private.give_to(SOMEBODY, SOMEBODY)
    assert locate(work.path).git_dir == work.path / ".git"


def test_files_that_would_never_end_are_not_waited_for(tmp_path: Path) -> None:
    work = SampleRepository.create(tmp_path / "work", {"a": "1"})
    os.mkfifo(work.path / ".git" / "objects/info/alternates")
    with pytest.raises(errors.RepositoryUnusable):
        locate(work.path)


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
