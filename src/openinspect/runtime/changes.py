"""What the work has come to: new commits, and the difference from the base. Looked at after tools and before a turn is called over.

Each commit is told once, each difference when it is another one; the patches are put at the door before the event tells of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import orjson

from openinspect.protocol.diffs import RepositoryDiff
from openinspect.protocol.events import Committed, DiffChanged, Warned

from .agents.contract import Agent
from .diffs import DiffFailed, repository_diff
from .door import DoorClient, DoorError
from .files import write_whole
from .git import EMPTY_TREES, Git
from .report import TurnReport
from .repositories import Checkout
from .wording import line

PAUSE_SECONDS = 1.0
MOST_COMMITS = 100
_FORMAT = "%H%x00%s%x00%an <%ae>"


@dataclass
class _Known:
    head: str | None = None
    diff: str | None = None


class Changes:
    def __init__(self, git: Git, door: DoorClient, state: Path, agent: Agent) -> None:
        self._git = git
        self._door = door
        self._agent = agent
        self._path = state / "changes.json"
        self._checkouts: list[Checkout] = []
        self._known: dict[str, _Known] = {}
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._dirty = True
        """Something ran since the last look."""
        self._newest: TurnReport | None = None
        """Of the turn whose tool finished last."""
        if self._path.exists():
            with contextlib.suppress(orjson.JSONDecodeError):  # a power cut may leave nothing of it
                self._known = {
                    name: _Known(**value) for name, value in orjson.loads(self._path.read_bytes()).items()
                }

    def watch(self, checkouts: list[Checkout]) -> None:
        self._checkouts = checkouts

    def notice(self, report: TurnReport) -> None:
        """A tool has finished: look soon, but not for every tool."""
        self._dirty, self._newest = True, report
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_soon())

    async def _look_soon(self) -> None:
        await asyncio.sleep(PAUSE_SECONDS)
        # another turn may have begun since: what is seen now is its doing
        if self._newest is not None:
            await self.settle(self._newest)

    async def settle(self, report: TurnReport) -> None:
        """Look, if anything ran since the last time, and tell it as part of the turn."""
        # Also with nothing to look for: a look that is under way has to come to its end first.
        async with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            for checkout in self._checkouts:
                known = self._known.setdefault(checkout.target.directory, _Known())
                try:
                    await self._agent.tidy(self._git, checkout.folder)
                    await self._look_at(checkout, known, report)
                except DiffFailed as failed:
                    await report.event(
                        Warned(
                            scope="diff",
                            message=line(
                                f"The difference of {checkout.target.directory} can't be told now: {failed}."
                            ),
                        ),
                        None,
                    )
                except DoorError:
                    # The next look tries again.
                    self._dirty, known.diff = True, None
                except OSError as error:
                    await report.event(
                        Warned(
                            scope="diff",
                            message=line(
                                f"{checkout.target.directory} can't be looked at: {error.strerror}."
                            ),
                            remedy="If its folder was moved away, bring it back.",
                        ),
                        None,
                    )

    async def tell_commits(self, report: TurnReport) -> None:
        """Tell the commits there are, and leave the rest for the next look."""
        async with self._lock:
            for checkout in self._checkouts:
                known = self._known.setdefault(checkout.target.directory, _Known())
                await self._commits(checkout, known, report)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look_at(self, checkout: Checkout, known: _Known, report: TurnReport) -> None:
        diff = asyncio.create_task(
            repository_diff(self._git, checkout.folder, checkout.target.directory, checkout.base_sha)
        )
        try:
            await self._commits(checkout, known, report)
            await self._tell(await diff, known, report)
        finally:
            diff.cancel()
            await asyncio.gather(diff, return_exceptions=True)

    async def _commits(self, checkout: Checkout, known: _Known, report: TurnReport) -> None:
        head = await self._git.line(checkout.folder, "rev-parse", "-q", "--verify", "HEAD^{commit}")
        if head is None or head == known.head:
            return
        without = [f"^refs/remotes/origin/{checkout.target.base_branch}"]
        for sha in (known.head, checkout.base_sha):
            if sha is not None and sha not in EMPTY_TREES.values():
                without.append(f"^{sha}")
        listed = await self._git.look(
            checkout.folder,
            *(
                "rev-list",
                "--reverse",
                "--ignore-missing",
                f"--max-count={MOST_COMMITS}",
                "--no-commit-header",
                f"--format={_FORMAT}",
            ),
            *("HEAD", *(without[1:] if checkout.base_sha in EMPTY_TREES.values() else without), "--"),
        )
        if listed.code == 0:
            for entry in listed.stdout.decode(errors="replace").splitlines():
                sha, _, rest = entry.partition("\0")
                subject, _, author = rest.partition("\0")
                if len(sha) in (40, 64):
                    await report.event(
                        Committed(
                            directory=checkout.target.directory,
                            sha=sha,
                            subject=line(subject),
                            author=line(author),
                        ),
                        f"commit/{sha}",
                    )
            known.head = head
            self._keep()

    async def _tell(self, diff: RepositoryDiff, known: _Known, report: TurnReport) -> None:
        digest = hashlib.sha256(diff.model_dump_json(exclude={"head_sha"}).encode()).hexdigest()
        if digest == known.diff or (known.diff is None and not diff.files):
            return
        await self._door.put_diff(diff)
        await report.event(
            DiffChanged(
                directory=diff.directory,
                files=len(diff.files) + diff.more_files,
                additions=diff.additions,
                deletions=diff.deletions,
            ),
            None,
        )
        known.diff = digest
        self._keep()

    def _keep(self) -> None:
        write_whole(
            self._path,
            orjson.dumps(
                {name: {"head": each.head, "diff": each.diff} for name, each in self._known.items()}
            ),
            sync=False,  # what a power cut takes from it is told a second time; waiting for the disk would hold up every turn
        )
