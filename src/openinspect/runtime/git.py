"""git inside the sandbox: its system-wide configuration, and running it as the agent.

The configuration is written before each prompt: who commits are by (``author`` is the person who prompted, ``committer`` is the platform, and
nothing is guessed), and the sandbox's token for the door, which is worth nothing anywhere else.

What git runs on behalf of a repository's own configuration (hooks, filters, monitors) runs as the agent, bounded in time and output; where
we only want to look, it is switched off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from openinspect.protocol.commands import Identity

from .files import write_whole
from .processes import Account, Finished, run

EMPTY_TREES = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
"""What git calls a tree without any file, by a repository's object format."""
LOOK_SECONDS = 20.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LOOKING = (
    "--no-optional-locks",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.pager=cat",
    "-c",
    "core.quotePath=false",
    "-c",
    "diff.external=",
    "-c",
    "diff.renameLimit=1000",
    "-c",
    "submodule.recurse=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "log.showSignature=false",
)


def _quoted(value: str) -> str:
    value = _CONTROL.sub(" ", value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def write_system_config(
    path: Path,
    account: Account,
    door_url: str,
    token: str,
    committer: Identity | None,
    author: Identity | None,
) -> None:
    """Replace the system-wide configuration; the agent can read and not write it."""
    lines = [
        "# Written by the sandbox's runtime before each prompt.",
        f"[http {_quoted(door_url + '/')}]",
        f"\textraHeader = {_quoted(f'Authorization: Bearer {token}')}",
        '\tproxy = ""',
        "[credential]",
        '\thelper = ""',
        "[init]",
        "\tdefaultBranch = main",
        "[push]",
        "\tdefault = current",
        "\tautoSetupRemote = true",
        "[advice]",
        "\tdetachedHead = false",
        "[user]",
        "\tuseConfigOnly = true",
    ]
    for section, identity in (("author", author), ("committer", committer)):
        if identity is not None:
            lines += [
                f"[{section}]",
                f"\tname = {_quoted(identity.name)}",
                f"\temail = {_quoted(identity.email)}",
            ]
    write_whole(path, ("\n".join(lines) + "\n").encode(), sync=False)
    account.own_group(path)
    path.chmod(0o640 if account.separate else 0o600)


class Git:
    """Runs git as the agent. ``look`` is for questions that must not run anything of the repository's."""

    def __init__(self, account: Account, env: Mapping[str, str]) -> None:
        self.account = account
        self.env = {**env, "GIT_LFS_SKIP_SMUDGE": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}

    async def run(
        self,
        folder: Path,
        *arguments: str,
        seconds: float = LOOK_SECONDS,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Finished:
        return await run(
            ["git", *arguments],
            self.account,
            cwd=folder,
            env={**self.env, **(env or {})},
            seconds=seconds,
            stdin=stdin,
        )

    async def look(
        self,
        folder: Path,
        *arguments: str,
        seconds: float = LOOK_SECONDS,
        bound: int = 8 * 1024 * 1024,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Finished:
        return await run(
            ["git", *_LOOKING, *arguments],
            self.account,
            cwd=folder,
            env={**self.env, **(env or {})},
            seconds=seconds,
            bound=bound,
            stdin=stdin,
        )

    async def line(self, folder: Path, *arguments: str) -> str | None:
        """The one line that a question is answered with; None when git fails."""
        done = await self.look(folder, *arguments)
        return done.stdout.decode(errors="replace").strip() if done.code == 0 and not done.timed_out else None

    def looking(self, *arguments: str) -> Sequence[str]:
        """The whole command, for those who read its output as it comes."""
        return ["git", *_LOOKING, *arguments]
