"""A repository's own scripts: ``.openinspect/setup.sh`` for a fresh checkout, ``.openinspect/start.sh`` at every boot.

They run as the agent, each in a process group of its own and bounded in time. A setup that fails is a warning. A start that fails ends the
boot where the repository is the primary one; what it leaves running in the background stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from .logs import StepLog, run_logged
from .processes import Account

Hook = Literal["setup", "start"]


class HookFailed(Exception):
    """Text for people: which script, how it ended."""


def script(folder: Path, hook: Hook) -> Path | None:
    path = folder / ".openinspect" / f"{hook}.sh"
    return path if path.is_file() else None


async def run_hook(
    folder: Path, hook: Hook, account: Account, env: Mapping[str, str], log: StepLog, seconds: float
) -> None:
    """Raises ``HookFailed``."""
    path = script(folder, hook)
    if path is None:
        return
    try:
        done = await run_logged(
            ["/bin/bash", str(path)],
            account,
            log,
            cwd=folder,
            env=env,
            seconds=seconds,
            kill_rest=hook == "setup",
        )
    except OSError as error:
        raise HookFailed(f".openinspect/{hook}.sh could not be started: {error.strerror}") from error
    if done.timed_out:
        raise HookFailed(f".openinspect/{hook}.sh was ended after {seconds:.0f} s")
    if done.code != 0:
        how = f"exit code {done.code}" if done.code > 0 else f"signal {-done.code}"
        raise HookFailed(f".openinspect/{hook}.sh ended with {how}")
