"""Repositories in the workspace: fetched through the door, or kept as they are when they are there already.

A repository is made in a folder beside its place and moved there when it is whole, so that one whose fetch was cut off is never taken for
one that was restored. History is fetched 100 commits deep (``git fetch --unshallow`` brings the rest).

    nothing there                → fetch base (and the work branch, where an earlier sandbox has pushed it) → work branch checked out
    a whole repository there     → kept: branch, commits and changes; only its remote's address is renewed
    the remote has no commit     → an empty repository: an empty tree on the work branch
    commits, but no branch       → refused: they can't be fetched, and nothing could be proposed to them

A repository begins as SHA-1, as nearly all are; when the fetch fails and the remote says that it is of another object format, it is begun again
as that.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from openinspect.protocol.commands import TargetSpec
from openinspect.protocol.events import Warned

from .git import EMPTY_TREES, Git
from .logs import StepLog, run_logged
from .outbox import Outbox
from .processes import Finished, run
from .wording import line

DEPTH = 100
PLACEHOLDER = "openinspect-placeholder"
"""A file in ``.git`` of a repository that only keeps a place warm."""
_EXCLUDES = "# Open-Inspect: what the agent's own tools leave behind\n/.opencode/node_modules/\n/.opencode/package-lock.json\n/.opencode/bun.lock\n"


class RepositoryFailed(Exception):
    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True)
class Checkout:
    target: TargetSpec
    folder: Path
    base_sha: str
    branch: str
    restored: bool


class _Remote(NamedTuple):
    branches: list[str]
    has_commit: bool
    """Its HEAD is one, whether or not a branch is there."""
    object_format: str


class Repositories:
    def __init__(self, git: Git, outbox: Outbox, workspace: Path, door_url: str) -> None:
        self._git = git
        self._outbox = outbox
        self._workspace = workspace
        self._door_url = door_url

    async def bring(self, target: TargetSpec, folder: Path, log: StepLog, seconds: float) -> Checkout:
        """Have the repository in its folder. Raises ``RepositoryFailed``."""
        staging = self._workspace / f".fetching-{target.directory}"
        await asyncio.to_thread(_remove, staging)
        url = f"{self._door_url}{target.git_path}"
        if _holds_work(folder) and (restored := await self._keep(target, folder, url)) is not None:
            return restored
        self._git.account.make_folder(staging)
        try:
            base_sha = await self._fetch(target, staging, url, log, seconds)
            await asyncio.to_thread(_remove, folder)
            staging.rename(folder)
        finally:
            await asyncio.to_thread(_remove, staging)
        return Checkout(target, folder, base_sha, target.work_branch, False)

    # ── there already ─────────────────────────────────────────────────────────────────────────────
    async def _keep(self, target: TargetSpec, folder: Path, url: str) -> Checkout | None:
        inside = await self._git.line(folder, "rev-parse", "--show-toplevel")
        if inside is None or not _same(Path(inside), folder):
            aside = _put_aside(folder)
            await self._warn(
                f"What was in {folder.name} is no git repository any more; it was moved to {aside}, and the repository fetched anew."
            )
            return None
        await self._git.look(folder, "remote", "set-url", "origin", url)
        branch = await self._git.line(folder, "symbolic-ref", "--short", "-q", "HEAD")
        base = target.base_sha
        if base is None:
            base = await self._git.line(
                folder, "merge-base", "HEAD", f"refs/remotes/origin/{target.base_branch}"
            )
        if base is None:
            object_format = await self._git.line(folder, "rev-parse", "--show-object-format")
            base = EMPTY_TREES[object_format or "sha1"]
        return Checkout(target, folder, base, branch or target.work_branch, True)

    # ── new ───────────────────────────────────────────────────────────────────────────────────────
    async def _fetch(self, target: TargetSpec, folder: Path, url: str, log: StepLog, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        await log.add(f"Fetching {target.directory} from {target.git_path}, branch {target.base_branch}\n")
        done = await self._begin(target, folder, url, log, seconds, "sha1")
        if done.code == 0 and not done.timed_out:
            return await self._check_out(target, folder, deadline)
        remote = None
        if not done.timed_out:
            remote = await self._ask_remote(folder, deadline)
            if remote is not None and remote.object_format != "sha1":
                await asyncio.to_thread(_remove, folder)
                self._git.account.make_folder(folder)
                left = max(1.0, deadline - time.monotonic())
                done = await self._begin(target, folder, url, log, left, remote.object_format)
                if done.code == 0 and not done.timed_out:
                    return await self._check_out(target, folder, deadline)
        if done.timed_out:
            raise RepositoryFailed(
                f"{target.directory} could not be fetched within {seconds:.0f} s.",
                "Retry; if the repository is very large, raise the time for cloning.",
            )
        return await self._explain(target, remote, done.stdout.decode(errors="replace"))

    async def _begin(
        self, target: TargetSpec, folder: Path, url: str, log: StepLog, seconds: float, object_format: str
    ) -> Finished:
        base, work = target.base_branch, target.work_branch
        await self._must(
            folder, "init", "--quiet", "--initial-branch", work, f"--object-format={object_format}"
        )
        await self._must(folder, "remote", "add", "origin", url)
        await self._write_as_agent(folder, ".git/info/exclude", _EXCLUDES)
        return await run_logged(
            [
                *("git", "-c", "gc.auto=0", "fetch", "--progress", "--no-tags", f"--depth={DEPTH}", "origin"),
                f"+refs/heads/{base}:refs/remotes/origin/{base}",
                # A pattern, as it may be missing: what an earlier sandbox of the session has pushed.
                f"+refs/heads/{work}*:refs/remotes/origin/{work}*",
            ],
            self._git.account,
            log,
            cwd=folder,
            env=self._git.env,
            seconds=seconds,
        )

    async def _check_out(self, target: TargetSpec, folder: Path, deadline: float) -> str:
        base, work = target.base_branch, target.work_branch
        tip = await self._git.line(folder, "rev-parse", f"refs/remotes/origin/{base}^{{commit}}")
        if tip is None:
            raise RepositoryFailed(
                f"The branch “{base}” of {target.directory} has no commit.", "Choose another branch."
            )
        base_sha = target.base_sha or tip
        if base_sha != tip and await self._git.line(folder, "cat-file", "-t", base_sha) != "commit":
            for more in ([f"--depth={DEPTH}", "origin", base_sha], ["--unshallow", "origin"]):
                left = max(1.0, deadline - time.monotonic())
                if (
                    await self._git.run(folder, "fetch", "--quiet", "--no-tags", *more, seconds=left)
                ).code == 0:
                    break
            if await self._git.line(folder, "cat-file", "-t", base_sha) != "commit":
                await self._warn(
                    f"The commit {base_sha[:12]} that {target.directory} began from is not there any more; the work is compared with {base} as it is now."
                )
                base_sha = tip
        pushed = await self._git.line(
            folder, "rev-parse", "-q", "--verify", f"refs/remotes/origin/{work}^{{commit}}"
        )
        await self._must(
            folder,
            "checkout",
            "--quiet",
            "--no-track",
            "-B",
            work,
            pushed or base_sha,
            seconds=max(10.0, deadline - time.monotonic()),
        )
        return base_sha

    async def _ask_remote(self, folder: Path, deadline: float) -> _Remote | None:
        """What the remote has; None when it does not say."""
        left = min(30.0, max(5.0, deadline - time.monotonic()))
        # the format of an empty repository is told by the protocol alone, so git is asked to show that
        listed = await self._git.run(
            folder,
            *("ls-remote", "origin", "HEAD", "refs/heads/*"),
            seconds=left,
            env={"GIT_TRACE_PACKET": "1"},
        )
        if listed.code != 0 or listed.timed_out:
            return None
        names = [entry.partition("\t")[2] for entry in listed.stdout.decode(errors="replace").splitlines()]
        return _Remote(
            branches=[name.removeprefix("refs/heads/") for name in names if name != "HEAD"],
            has_commit="HEAD" in names,
            object_format="sha256" if b"object-format=sha256" in listed.stderr else "sha1",
        )

    async def _explain(self, target: TargetSpec, remote: _Remote | None, said: str) -> str:
        """Why a fetch failed: an empty repository is none, and gives its base."""
        if remote is not None and not remote.branches:
            if remote.has_commit:
                raise RepositoryFailed(
                    f"{target.directory} has commits and no branch: its HEAD is detached, as some checkouts leave it.",
                    "Make a branch where it lies (git switch -c main), then retry.",
                )
            await self._warn(f"{target.directory} is empty: the work begins with its first commit.")
            return EMPTY_TREES[remote.object_format]
        if remote is not None and target.base_branch not in remote.branches:
            raise RepositoryFailed(
                line(f"{target.directory} has no branch “{target.base_branch}”."),
                line(
                    "Choose one of its branches: "
                    + ", ".join(remote.branches[:10])
                    + (" …" if len(remote.branches) > 10 else "")
                    + "."
                ),
            )
        reason = [each for each in said.strip().splitlines() if each.strip()][-3:]
        raise RepositoryFailed(
            line(f"{target.directory} could not be fetched: {' '.join(reason) or 'git said nothing'}"),
            "Check that the repository can be reached and that its access is still granted, then retry.",
        )

    async def _must(
        self, folder: Path, *arguments: str, seconds: float = 60.0, env: Mapping[str, str] | None = None
    ) -> None:
        done = await self._git.run(folder, *arguments, seconds=seconds, env=env)
        if done.code != 0 or done.timed_out:
            raise RepositoryFailed(
                line(f"git {arguments[0]} failed: {'it took too long' if done.timed_out else done.said}"),
                "Retry; if the disk is full, give the sandbox a larger one.",
            )

    async def _write_as_agent(self, folder: Path, name: str, text: str) -> None:
        # As the agent: in its folders a link may lead anywhere.
        await run(
            ["/bin/sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >>"$1"', "sh", name],
            self._git.account,
            cwd=folder,
            env=self._git.env,
            seconds=10.0,
            stdin=text.encode(),
        )

    async def _warn(self, message: str) -> None:
        await self._outbox.emit(Warned(scope="repository", message=line(message)))


async def keep_place(git: Git, folder: Path) -> None:
    """An empty repository where one is to be checked out later."""
    git.account.make_folder(folder)
    await git.run(folder, "init", "--quiet")
    await run(["touch", f".git/{PLACEHOLDER}"], git.account, cwd=folder, env=git.env, seconds=10.0)


def drop_place(folder: Path) -> None:
    """Remove a kept place that nothing was checked out to; work is never removed."""
    if (folder / ".git" / PLACEHOLDER).exists():
        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _holds_work(folder: Path) -> bool:
    """Whether there is more than a kept place."""
    return folder.is_dir() and not (folder / ".git" / PLACEHOLDER).exists() and any(folder.iterdir())


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _put_aside(folder: Path) -> str:
    aside = folder.with_name(f"{folder.name}.broken-{int(time.time())}")
    folder.rename(aside)
    return aside.name
