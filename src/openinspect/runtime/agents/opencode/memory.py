"""Which of OpenCode's sessions is this session's memory: remembered in the agent's home, where the memory itself is. Both
are on the session's disk, so that the conversation goes on in another process and in another sandbox alike.

Read and written as the agent, as the home is its own: a link in it leads nowhere that the agent could not go itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from openinspect.runtime.processes import Account, run

_NAME = ".local/state/openinspect-session"
_SECONDS = 10.0


async def remember(home: Path, account: Account, env: Mapping[str, str], session: str) -> None:
    await run(
        ["/bin/sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", _NAME],
        account,
        cwd=home,
        env=env,
        seconds=_SECONDS,
        stdin=session.encode(),
    )


async def recall(home: Path, account: Account, env: Mapping[str, str]) -> str | None:
    done = await run(["cat", _NAME], account, cwd=home, env=env, seconds=_SECONDS, bound=200)
    name = done.stdout.decode(errors="replace").strip()
    return (
        name
        if done.code == 0 and name.startswith("ses_") and name.isascii() and name.replace("_", "").isalnum()
        else None
    )
