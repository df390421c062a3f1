"""Making the sandbox the session's: repositories, hooks, and where the agent is to work.

Steps, each an event when it begins and when it ends, with its output: ``clone`` → ``setup`` (fresh checkouts only) → ``start``. What can't be
gone on without raises ``BootFailed``; the rest becomes a warning.

One repository lies at ``/workspace/repo``, with ``/workspace/<its name>`` a link to it, and is the agent's folder; several lie side by side
under their names, and the agent's folder is ``/workspace``; so it is without any.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openinspect.protocol.commands import Configure
from openinspect.protocol.config import RuntimeConfig
from openinspect.protocol.events import BootStep, CheckedOut, Warned

from .git import Git
from .hooks import Hook, HookFailed, run_hook, script
from .logs import StepLog
from .outbox import Outbox
from .repositories import Checkout, Repositories, RepositoryFailed, drop_place
from .wording import line

BootMode = Literal["fresh", "snapshot_restore"]
"""What hooks, the agent and its commands find in ``OPENINSPECT_BOOT_MODE``. ``snapshot_restore``: at least one of the repositories was there
already, with its work tree, on the disk that the session keeps; the name is the one that repositories' hooks ask for."""


class BootFailed(Exception):
    def __init__(self, reason: str, remedy: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.log_tail = log_tail


@dataclass(frozen=True)
class Workspace:
    directory: Path
    checkouts: list[Checkout]
    mode: BootMode
    configured: bool
    """A tree brings configuration for the agent."""


class Boot:
    def __init__(self, config: RuntimeConfig, outbox: Outbox, git: Git, door_url: str) -> None:
        self._outbox = outbox
        self._git = git
        self._root = Path(config.paths.workspace)
        self._repositories = Repositories(git, outbox, self._root, door_url)

    async def run(self, configure: Configure, checked_out: Callable[[Workspace], None]) -> None:
        """``checked_out`` is called when the files are there, before the hooks. Raises ``BootFailed``."""
        self._git.account.make_folder(self._root)
        alone = len(configure.targets) == 1
        async with self._step("clone") as log:
            deadline = time.monotonic() + configure.clone_seconds
            checkouts: list[Checkout] = []
            for target in configure.targets:
                folder = self._root / ("repo" if alone else target.directory)
                try:
                    checkout = await self._repositories.bring(
                        target, folder, log, max(1.0, deadline - time.monotonic())
                    )
                except RepositoryFailed as failed:
                    raise BootFailed(failed.reason, failed.remedy, log.tail.text) from failed
                except OSError as error:
                    raise BootFailed(
                        f"{target.directory} could not be put into the workspace: {error.strerror}",
                        "If the disk is full, give the sandbox a larger one, then retry.",
                    ) from error
                checkouts.append(checkout)
                await self._outbox.emit(
                    CheckedOut(
                        directory=target.directory,
                        base_sha=checkout.base_sha,
                        branch=checkout.branch,
                        restored=checkout.restored,
                    )
                )
        if alone:
            self._link(configure.targets[0].directory)
        else:
            await asyncio.to_thread(drop_place, self._root / "repo")
        directory = self._root / "repo" if alone else self._root
        mode: BootMode = "snapshot_restore" if any(each.restored for each in checkouts) else "fresh"
        checked_out(
            Workspace(directory, checkouts, mode, any(_configures(each.folder) for each in checkouts))
        )
        environment = {
            **self._git.env,
            "OPENINSPECT_BOOT_MODE": mode,
            "OPENINSPECT_SESSION_ID": configure.session_id,
        }
        fresh = [each for each in checkouts if not each.restored]
        await self._hooks("setup", fresh, checkouts, environment, configure.setup_seconds)
        await self._hooks("start", checkouts, checkouts, environment, configure.start_seconds)

    def _link(self, name: str) -> None:
        link = self._root / name
        if name != "repo" and not link.is_symlink() and not link.exists():
            link.symlink_to("repo")
            self._git.account.own(link)

    async def _hooks(
        self,
        hook: Hook,
        of: list[Checkout],
        checkouts: list[Checkout],
        environment: dict[str, str],
        seconds: float,
    ) -> None:
        having = [each for each in of if script(each.folder, hook) is not None]
        if not having:
            return
        async with self._step(hook) as log:
            for checkout in having:
                try:
                    await run_hook(checkout.folder, hook, self._git.account, environment, log, seconds)
                except HookFailed as failed:
                    message = line(f"{checkout.target.directory}: {failed}.")
                    if hook == "start" and checkout is checkouts[0]:
                        raise BootFailed(
                            message, "Repair the script (its output is above), then retry.", log.tail.text
                        ) from failed
                    await self._outbox.emit(
                        Warned(
                            scope=hook,
                            message=message,
                            remedy="The session goes on without it; its output is above.",
                        )
                    )

    @asynccontextmanager
    async def _step(self, step: str) -> AsyncIterator[StepLog]:
        began = time.monotonic()
        await self._outbox.emit(BootStep(step=step, state="started"))
        log = StepLog(self._outbox, step)

        def took() -> int:
            return int((time.monotonic() - began) * 1000)

        try:
            yield log
        except BootFailed as failed:
            await log.end()
            await self._outbox.emit(
                BootStep(step=step, state="failed", detail=line(failed.reason), duration_ms=took())
            )
            raise
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await log.end()
            raise
        await log.end()
        await self._outbox.emit(BootStep(step=step, state="completed", duration_ms=took()))


def _configures(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("opencode.json", "opencode.jsonc", ".opencode"))
