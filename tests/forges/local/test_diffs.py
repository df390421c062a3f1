"""A pull request's difference: every kind of change, and its bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openinspect.forges import errors
from openinspect.forges.local.diffs import diff
from openinspect.forges.local.git import Git
from openinspect.forges.local.place import locate
from openinspect.protocol.diffs import MAX_FILES, MAX_PATCH_BYTES, MAX_PATCHES_BYTES, FileDiff, RepositoryDiff
from openinspect.testing.repositories import SampleRepository

pytestmark = pytest.mark.anyio


async def between(
    repository: SampleRepository, base: str, head: str
) -> tuple[RepositoryDiff, dict[str, FileDiff]]:
    found = await diff(Git(locate(repository.path)), base, head, directory="repo")
    return found, {one.path: one for one in found.files}


async def test_every_kind_of_change(tmp_path: Path) -> None:
    long = "".join(f"line {n}\n" for n in range(30))
    repository = SampleRepository.create(
        tmp_path / "r",
        {
            "changed": "a\nb\nc\n",
            "deleted": "x\n",
            "moved": long,
            "moved-and-changed": long,
            "mode": "m\n",
            "to-link": "t\n",
            "binary": b"\0\1\2",
            "latin": "café\n".encode("latin-1"),
            "zz-last": "1\n",
        },
    )
    base = repository.head()
    here = repository.path
    for name in ("deleted", "to-link"):
        (here / name).unlink()
    (here / "to-link").symlink_to("changed")
    (here / "moved").rename(here / "moved-here")
    (here / "moved-and-changed").unlink()
    (here / "mode").chmod(0o755)
    submodule = SampleRepository.create(tmp_path / "sub", {"s": "1"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{submodule.head()},module")
    repository.write(
        {
            "changed": "a\nB\nc\n",
            "was-changed": long.replace("line 3\n", "line three\n"),
            "binary": b"\0\1\3",
            "latin": "thé\n".encode("latin-1"),
            "empty": "",
            'odd "name"\t\n': "o\n",
            "ümläut": "u\n",
            "looks-like-a-header": "diff --git a/x b/x\n",
            "zz-last": "2\n",
        }
    )
    repository.git("add", "-A", "--", ".", ":!module")
    repository.git("commit", "-q", "-m", "All of it")
    found, files = await between(repository, base, repository.head())
    states = {path: (one.status, one.state) for path, one in files.items()}
    assert states == {
        "changed": ("modified", "renderable"),
        "deleted": ("deleted", "renderable"),
        "moved-here": ("renamed", "metadata_only"),
        "was-changed": ("renamed", "renderable"),
        "mode": ("modified", "metadata_only"),
        "to-link": ("type_changed", "renderable"),
        "binary": ("modified", "binary"),
        "latin": ("modified", "renderable"),
        "empty": ("added", "metadata_only"),
        'odd "name"\t\n': ("added", "renderable"),
        "ümläut": ("added", "renderable"),
        "looks-like-a-header": ("added", "renderable"),
        "module": ("submodule", "renderable"),
        "zz-last": ("modified", "renderable"),
    }
    assert files["was-changed"].old_path == "moved-and-changed"
    assert "-b\n+B\n" in files["changed"].patch
    assert "+diff --git a/x b/x\n" in files["looks-like-a-header"].patch
    assert files["to-link"].patch.count("diff --git") == 2
    assert "Subproject commit" in files["module"].patch
    assert "-1\n+2\n" in files["zz-last"].patch
    assert (files["changed"].additions, files["changed"].deletions) == (1, 1)
    assert found.additions == sum(one.additions for one in found.files)
    for path, one in files.items():
        assert one.patch == "" or one.patch.startswith("diff --git"), path


async def test_patches_over_the_bounds_are_listed_without_text(tmp_path: Path) -> None:
    repository = SampleRepository.create(tmp_path / "r", {"a": "1\n"})
    base = repository.head()
    line = "x" * 99 + "\n"
    files = {"0-huge": line * (MAX_PATCH_BYTES // 100 + 10)}
    files |= {f"1-part-{n}": line * (300 * 1024 // 100) for n in range(5)}
    files["2-small"] = "small\n"
    repository.commit("Large", files)
    found, by_path = await between(repository, base, repository.head())
    assert by_path["0-huge"].state == "too_large" and by_path["0-huge"].additions > 5000
    states = [by_path[f"1-part-{n}"].state for n in range(5)]
    assert states == ["renderable"] * 3 + ["too_large"] * 2
    assert by_path["2-small"].state == "renderable"
    assert sum(len(one.patch.encode()) for one in found.files) <= MAX_PATCHES_BYTES


async def test_one_line_of_many_megabytes_and_what_follows_it(tmp_path: Path) -> None:
    repository = SampleRepository.create(tmp_path / "r", {"a": "1\n"})
    base = repository.head()
    repository.commit("Wide", {"wide": "y" * (8 * 1024 * 1024), "zz": "z\n"})
    _, files = await between(repository, base, repository.head())
    assert (files["wide"].state, files["zz"].state) == ("too_large", "renderable")


async def test_more_files_than_are_listed_are_counted(tmp_path: Path) -> None:
    repository = SampleRepository.create(tmp_path / "r", {"a": "1\n"})
    base = repository.head()
    repository.commit("Many", {f"f/{n:04d}": f"{n}\n" for n in range(MAX_FILES + 25)})
    found, _ = await between(repository, base, repository.head())
    assert (len(found.files), found.more_files, found.additions) == (MAX_FILES, 25, MAX_FILES + 25)
    assert all(one.state == "renderable" and one.patch for one in found.files)


async def test_random_trees_keep_every_patch_with_its_file(tmp_path: Path) -> None:
    repository = SampleRepository.create(
        tmp_path / "r", {f"{n}": "".join(f"{n} {i}\n" for i in range(20)) for n in range(60)}
    )
    base = repository.head()
    for n, byte in enumerate(os.urandom(60)):
        file = repository.path / f"{n}"
        if byte % 5 == 0:
            file.unlink()
        elif byte % 5 == 1:
            file.rename(repository.path / f"moved-{n}")
        elif byte % 5 == 2:
            file.unlink()
            file.symlink_to(f"target-{n}")
        elif byte % 5 == 3:
            file.write_text(file.read_text().replace(f"{n} 7\n", f"{n} seven\n"))
    head = repository.commit("Mixed")
    _, files = await between(repository, base, head)
    for path, one in files.items():
        if one.patch:
            assert one.patch.splitlines()[0].endswith(f" b/{path}"), path
        assert one.state in ("renderable", "metadata_only")


async def test_a_commit_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    repository = SampleRepository.create(tmp_path / "r", {"a": "1\n"})
    with pytest.raises(errors.ForgeUnavailable) as failed:
        await between(repository, "1" * 40, repository.head())
    assert failed.value.remedy
