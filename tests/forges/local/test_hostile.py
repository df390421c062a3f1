"""Repositories whose own settings, hooks and attributes try to run a command of theirs. None may: not in any call, not as anybody.

Every trap would leave a file behind; the test is that none does, and that the work is done all the same.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.forges import errors
from openinspect.forges.contract import NewPullRequest, Person
from openinspect.forges.local import refs
from openinspect.forges.local.forge import LocalForge
from openinspect.forges.local.git import Git
from openinspect.forges.local.place import locate
from openinspect.testing.repositories import SampleRepository

pytestmark = pytest.mark.anyio
SAM = Person(name="Sam Sample", email="sam@example.com")

HOOKS = [
    "pre-receive",
    "update",
    "post-receive",
    "post-update",
    "reference-transaction",
    "proc-receive",
    "push-to-checkout",
    "pre-auto-gc",
    "post-checkout",
    "post-merge",
    "post-index-change",
    "pre-commit",
    "commit-msg",
    "post-commit",
    "fsmonitor-watchman",
]


class Trap:
    """Commands that would leave a mark if git ran them."""

    def __init__(self, folder: Path) -> None:
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.marks.chmod(0o777)

    def command(self, name: str) -> str:
        return f"touch {self.marks / name}; cat"

    @property
    def sprung(self) -> list[str]:
        return sorted(entry.name for entry in self.marks.iterdir())

    def lay(self, repository: SampleRepository, git_dir: Path, *, filters: bool) -> None:
        for hook in HOOKS:
            file = git_dir / "hooks" / hook
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"#!/bin/sh\n{self.command(f'hook-{hook}')}\n")
            file.chmod(0o755)
        included = git_dir / "more-config"
        settings = {
            "core.fsmonitor": self.command("fsmonitor"),
            "core.sshCommand": self.command("ssh"),
            "core.gitProxy": self.command("proxy"),
            "core.alternateRefsCommand": self.command("alternates"),
            "core.pager": self.command("pager"),
            "core.editor": self.command("editor"),
            "core.askPass": self.command("askpass"),
            "credential.helper": f"!{self.command('credential')}",
            "uploadpack.packObjectsHook": self.command("packobjects"),
            "gc.auto": "1",
            "gc.recentObjectsHook": self.command("gc"),
            "receive.certNonceSeed": "seed",
            "gpg.program": self.command("gpg"),
            "commit.gpgSign": "true",
            "diff.external": self.command("external"),
            "diff.evil.textconv": self.command("textconv"),
            "diff.evil.command": self.command("diffcommand"),
            "merge.evil.driver": self.command("merge"),
            "merge.default": "evil",
            "alias.merge-tree": f"!{self.command('alias')}",
            "trailer.x.command": self.command("trailer"),
            "remote.origin.url": f"ext::sh -c '{self.command('ext')}'",
            "remote.origin.uploadpack": self.command("remote-uploadpack"),
            "remote.origin.promisor": "true",
            "remote.origin.partialclonefilter": "blob:none",
            "receive.denyCurrentBranch": "updateInstead",
            "transfer.hideRefs": "refs/heads/main",
        }
        if filters:
            settings |= {
                f"filter.evil.{k}": self.command(f"filter-{k}") for k in ("clean", "smudge", "process")
            }
        for key, value in settings.items():
            repository.git("config", "--file", str(included), key, value)
        repository.git("config", "include.path", str(included))
        (git_dir / "info").mkdir(exist_ok=True)
        (git_dir / "info" / "attributes").write_text(
            "* diff=evil merge=evil" + (" filter=evil\n" if filters else "\n")
        )


def sample(folder: Path) -> SampleRepository:
    lines = "".join(f"line {n}\n" for n in range(1, 11))
    repository = SampleRepository.create(folder, {"a.txt": lines, "b.txt": lines})
    repository.commit_on("openinspect/x", "Work", {"a.txt": lines.replace("line 9", "LINE 9")})
    repository.commit("On main", {"a.txt": lines.replace("line 1\n", "LINE 1\n")})
    return repository


async def whole_life(forge: LocalForge, repository_id: str) -> None:
    """Everything that the forge does, in the order of a pull request's life."""
    await forge.default_branch(repository_id)
    await forge.list_branches(repository_id)
    new = NewPullRequest(
        repository_id=repository_id, head="openinspect/x", base="main", title="Work", author=SAM
    )
    number = (await forge.open_pull_request(new)).number
    diff = await forge.pull_request_diff(repository_id, number)
    assert [one.state for one in diff.files] == ["renderable"]
    await forge.mergeability(repository_id, number)
    merged = await forge.merge(repository_id, number, method="merge", by=SAM)
    assert merged.state == "merged"
    await forge.pull_request_diff(repository_id, number)


@pytest.mark.parametrize("bare", [True, False])
async def test_nothing_of_a_repository_s_settings_is_run(
    engine: AsyncEngine, tmp_path: Path, bare: bool
) -> None:
    trap = Trap(tmp_path)
    repository = sample(tmp_path / "work")
    if bare:
        repository = repository.bare_copy(tmp_path / "bare.git")
    trap.lay(repository, repository.path if bare else repository.path / ".git", filters=bare)
    forge = LocalForge(engine, tmp_path / "data")
    known = await forge.add(str(repository.path))
    await whole_life(forge, known.id)
    assert trap.sprung == []


async def test_filters_of_a_checked_out_base_are_refused_and_not_run(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    trap = Trap(tmp_path)
    repository = sample(tmp_path / "work")
    trap.lay(repository, repository.path / ".git", filters=True)
    before = repository.head("main")
    forge = LocalForge(engine, tmp_path / "data")
    known = await forge.add(str(repository.path))
    with pytest.raises(errors.NotMergeable) as refused:
        await whole_life(forge, known.id)
    assert "filters" in refused.value.reason
    assert repository.head("main") == before
    assert trap.sprung == []


async def test_cloning_a_hostile_folder_runs_nothing_of_it(engine: AsyncEngine, tmp_path: Path) -> None:
    trap = Trap(tmp_path)
    repository = sample(tmp_path / "work")
    trap.lay(repository, repository.path / ".git", filters=True)
    forge = LocalForge(engine, tmp_path / "data")
    known = await forge.add(f"file://{repository.path}")
    config = (Path(known.location) / "config").read_text()
    assert "evil" not in config and "remote" not in config
    await whole_life(forge, known.id)
    assert trap.sprung == []


async def test_the_trap_itself_works(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    trap = Trap(tmp_path)
    repository = sample(tmp_path / "work")
    trap.lay(repository, repository.path / ".git", filters=True)
    repository.git("status", check=False)
    repository.git("diff", "HEAD~1", check=False)
    repository.git("update-ref", "refs/heads/y", "HEAD", check=False)
    repository.git("merge", "openinspect/x", check=False)
    assert {"fsmonitor", "hook-reference-transaction"} <= set(trap.sprung)
    assert any(name.startswith(("merge", "external", "filter")) for name in trap.sprung)


async def test_missing_objects_are_not_fetched_from_a_promisor(tmp_path: Path) -> None:
    trap = Trap(tmp_path)
    repository = sample(tmp_path / "work")
    trap.lay(repository, repository.path / ".git", filters=False)
    repository.git("config", "extensions.partialClone", "origin")
    git = Git(locate(repository.path))
    with pytest.raises(errors.ForgeUnavailable):
        await git.run("cat-file", "-p", "1" * 40)
    result = await git.run_on_objects("cat-file", "-p", "1" * 40, sha="1" * 40, ok=(128,))
    assert result.returncode == 128
    assert trap.sprung == []


async def test_the_environment_of_the_server_does_not_reach_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = sample(tmp_path / "work")
    other = SampleRepository.create(tmp_path / "other", {"x": "1"})
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-secret")
    git = Git(locate(repository.path))
    assert "a-secret" not in str(git.in_repository(["x"]).env)
    assert (await refs.branch_head(git, "main")) == repository.head("main")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@needs_root
@pytest.mark.parametrize("bare", [True, False])
async def test_another_user_s_repository_is_worked_on_as_that_user(
    engine: AsyncEngine, tmp_path: Path, open_path: Path, bare: bool
) -> None:
    repository = sample(open_path / "work")
    if bare:
        repository = repository.bare_copy(open_path / "bare.git")
    repository.give_to(65534, 65534)
    forge = LocalForge(engine, tmp_path / "data")
    known = await forge.add(str(repository.path))
    await whole_life(forge, known.id)
    assert {entry.lstat().st_uid for entry in repository.path.rglob("*")} == {65534}
    if not bare:
        assert "LINE 9" in (repository.path / "a.txt").read_text()
        assert repository.git("status", "--porcelain") == ""


@needs_root
async def test_git_of_another_user_has_none_of_root_s_rights(open_path: Path) -> None:
    repository = sample(open_path / "work")
    repository.give_to(65534, 65534)
    place = locate(repository.path)
    assert place.run_as is not None and place.run_as.uid == 65534
    command = Git(place).in_repository(["version"])
    words = command.argv[: command.argv.index("--") + 1]
    process = await asyncio.create_subprocess_exec(
        *words, "cat", "/proc/self/status", stdout=asyncio.subprocess.PIPE, env=command.env
    )
    text = (await process.communicate())[0].decode()
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["65534"] * 4
    assert fields["Groups"].strip() == "" and fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapInh"], 16) == 0


@needs_root
async def test_a_config_of_somebody_else_is_not_read_by_root(tmp_path: Path) -> None:
    repository = sample(tmp_path / "work")
    os.chown(repository.path / ".git" / "config", 65534, 65534)
    with pytest.raises(errors.RepositoryUnusable) as refused:
        locate(repository.path)
    assert "chown" in refused.value.remedy


@needs_root
async def test_a_registered_folder_that_later_leads_elsewhere_is_not_followed(
    engine: AsyncEngine, tmp_path: Path, open_path: Path
) -> None:
    private = sample(tmp_path / "private")
    repository = sample(open_path / "work")
    repository.give_to(65534, 65534)
    forge = LocalForge(engine, tmp_path / "data")
    known = await forge.add(str(repository.path))
    assert await forge.list_branches(known.id)
    repository.path.rename(open_path / "aside")
    repository.path.symlink_to(private.path)
    os.chown(repository.path, 65534, 65534, follow_symlinks=False)
    with pytest.raises(errors.RepositoryUnusable) as refused:
        await forge.list_branches(known.id)
    assert str(private.path / ".git") in refused.value.reason
