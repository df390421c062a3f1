"""A sandbox without walls: the real runtime as a process of its own, in a temporary folder, behind a test door."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from stat import S_IXOTH
from typing import Any, Self

from openinspect.models.catalogue import agent_providers
from openinspect.protocol.commands import Configure, Identity, ModelChoice, RunPrompt, StopTurn, TargetSpec
from openinspect.protocol.config import AgentConfig, Paths, RuntimeConfig
from openinspect.protocol.config import Door as DoorConfig

from .door import TOKEN, Door

COMMITTER = Identity(name="Open-Inspect", email="open-inspect@example.invalid")
AUTHOR = Identity(name="Ada Example", email="ada@example.invalid")
SONNET = ModelChoice(provider="anthropic", model="claude-sonnet-4-6", effort="high")
NO_TOOLBOX = "OpenCode is not installed: `make test` does it, or `python3 setup/bootstrap.py --dev`"
_CHECKOUT = Path(__file__).parents[2]


def toolbox() -> Path | None:
    """The toolbox of the checkout, once it is built."""
    found = _CHECKOUT / ".tools" / "toolbox"
    return found if (found / "bin" / "opencode").exists() else None


def open_toolbox(folder: Path) -> Path | None:
    """The toolbox where every account can reach it: a copy in ``folder`` when the checkout lies in a closed one, such as root's home."""
    found = toolbox()
    if found is None or all(parent.stat().st_mode & S_IXOTH for parent in found.parents):
        return found

    def link_or_copy(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)

    return shutil.copytree(found, folder / "toolbox", symlinks=True, copy_function=link_or_copy)


def git(folder: Path, *arguments: str) -> str:
    """git with nothing of this machine's configuration."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Grace Example",
        "GIT_AUTHOR_EMAIL": "grace@example.invalid",
        "GIT_COMMITTER_NAME": "Grace Example",
        "GIT_COMMITTER_EMAIL": "grace@example.invalid",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_repository(folder: Path, name: str, files: dict[str, str], object_format: str = "sha1") -> str:
    """A bare repository with one commit on main; gives the commit. Without files there is none."""
    work = folder / f"{name}.work"
    work.mkdir(parents=True)
    if not files:
        git(folder, "init", "-q", "--bare", "-b", "main", f"--object-format={object_format}", name)
        return ""
    git(work, "init", "-q", "-b", "main", f"--object-format={object_format}")
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "Begin")
    git(folder, "clone", "-q", "--bare", str(work), name)
    return git(work, "rev-parse", "HEAD")


class Box:
    """``uid``: the account of the agent, where we are root. ``tools``: another toolbox than the checkout's."""

    def __init__(
        self,
        root: Path,
        door: Door,
        *,
        sandbox_id: str = "box_1",
        uid: int | None = None,
        tools: Path | None = None,
        **agent: Any,
    ) -> None:
        self.root = root
        self.door = door
        self.uid = uid if os.geteuid() == 0 else None
        root.mkdir(parents=True, exist_ok=True)
        self.workspace = root / "workspace"
        self.home = root / "home"
        self.state = root / "state"
        self.config = RuntimeConfig(
            sandbox_id=sandbox_id,
            token=TOKEN,
            door=DoorConfig(socket=str(door.socket)),
            agent=AgentConfig(
                **{
                    "providers": agent_providers(),
                    "default_model": "anthropic/claude-sonnet-4-6",
                    "small_model": "anthropic/claude-haiku-4-5",
                    "tools_path": None,
                    "instructions": "You are watched by a test.",
                    **agent,
                }
            ),
            paths=Paths(
                workspace=str(self.workspace),
                home=str(self.home),
                state=str(self.state),
                shared=str(root / "shared"),
                toolbox=str(tools or toolbox() or root / "toolbox"),
                git_config=str(root / "gitconfig"),
            ),
            agent_uid=self.uid,
            agent_gid=self.uid,
            spool_bytes=8 * 1024 * 1024,
        )
        self.config_path = root / "runtime.json"
        self.process: asyncio.subprocess.Process | None = None
        self.env: dict[str, str] = {}
        self.program = ["-m", "openinspect.runtime"]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def start(self) -> None:
        self._seed_home()
        self.config_path.write_text(self.config.model_dump_json())
        self.config_path.chmod(0o600)
        with (self.root / "runtime.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self.program, str(self.config_path)),
                env={"PATH": os.environ["PATH"], **self.env},
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _seed_home(self) -> None:
        """As the sandbox's provider does it."""
        tools = toolbox()
        if tools is not None and not self.home.exists():
            shutil.copytree(tools / "opencode-home", self.home, symlinks=True)
            if self.uid is not None:
                subprocess.run(["chown", "-R", f"{self.uid}:{self.uid}", str(self.home)], check=True)

    async def end(self) -> int | None:
        """Ends the runtime in order, and whatever it may have left."""
        process, self.process = self.process, None
        if process is None:
            return None
        children = self.processes_of(process.pid)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        left = [pid for pid in children if _state(pid) not in "ZX"]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left: {left}\n{self.log}"
        return process.returncode

    @property
    def log(self) -> str:
        return (self.root / "runtime.log").read_text(errors="replace")[-6_000:]

    def processes_of(self, pid: int) -> list[int]:
        """All below a process."""
        parents: dict[int, list[int]] = {}
        for each in Path("/proc").iterdir():
            if each.name.isdigit():
                with contextlib.suppress(OSError):
                    stat = (each / "stat").read_text()
                    parents.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(
                        int(each.name)
                    )
        found, stack = [], [pid]
        while stack:
            below = parents.get(stack.pop(), [])
            found += below
            stack += below
        return found

    def pids(self, *words: str) -> list[int]:
        """Processes of this box whose command line has all the words."""
        assert self.process is not None
        found = []
        for pid in self.processes_of(self.process.pid):
            with contextlib.suppress(OSError):
                command = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if all(word in command for word in words) and _state(pid) not in "ZX":
                    found.append(pid)
        return found

    # ── what the control plane would say ──────────────────────────────────────────────────────────
    def configure(self, names: Sequence[str] = ("widgets",), **more: Any) -> None:
        targets = [
            TargetSpec(
                directory=name,
                git_path=f"/git/{name}",
                base_branch=more.get("base_branch", "main"),
                base_sha=more.get("base_sha"),
                work_branch="open-inspect/work",
            )
            for name in names
        ]
        rest = {k: v for k, v in more.items() if k not in ("base_branch", "base_sha")}
        self.door.command(Configure(session_id="ses_1", targets=targets, committer=COMMITTER, **rest))

    def prompt(self, prompt_id: str, text: str, **more: Any) -> str:
        fields = {"model": SONNET, "author": AUTHOR, "title": "A test", **more}
        self.door.command(RunPrompt(prompt_id=prompt_id, text=text, **fields))
        return prompt_id

    def stop(self, prompt_id: str) -> None:
        self.door.command(StopTurn(prompt_id=prompt_id))


class FakeBox(Box):
    """The same with the agent that has no mind: quick."""

    def __init__(self, root: Path, door: Door, **more: Any) -> None:
        super().__init__(root, door, **more)
        self.program = [str(Path(__file__).with_name("with_fake.py"))]

    def _seed_home(self) -> None:
        return


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return stat[stat.rindex(")") + 2]


def lives(pid: int) -> bool:
    return _state(pid) not in "ZX"
