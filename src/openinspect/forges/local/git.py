"""Running git: clean environment, the owner's rights, bounded time and output.

Two ways to run, by what is asked:

- ``Git.in_repository``: with the repository's own git folder. For refs, and for serving fetch and push. Every setting of the repository
  that could run a command is overridden (``HARDENING``); hooks, automatic gc and the network are off.
- ``Git.on_objects``: on the repository's objects, but with an empty git folder of ours, so that not one byte of its config, attributes or replace
  refs is read. For diffs and merges, whose drivers (textconv, merge, filter) have names that can't all be overridden.

Git runs in a process group of its own, and becomes the repository's owner by ``setpriv`` rather than by the ``user=`` of a subprocess: it
also gives up capabilities and forbids new privileges, and its words can be handed on to a git that starts another one.

What git reads may come from a sandbox, and 16 KB of a pack can claim an object of 3 GB. So every git allocates at most ``LARGEST_ALLOCATION`` at once and
``MOST_DATA`` together (``prlimit --data``, which counts no mapped packs, as a bound on its address space would; where a repository needs more, git says that it
is out of memory), computes for ``MOST_CPU_SECONDS`` at most, and is what the kernel ends first when the host's memory runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from ..contract import CALL_SECONDS, Person
from ..errors import ForgeUnavailable
from .clean_dir import clean_git_dir
from .place import Owner, Place

MAX_OUTPUT = 16 * 1024 * 1024
LARGEST_ALLOCATION = 512 * 1024 * 1024
"""As much as git takes at once for a large file that it treats as text; larger ones it streams (``core.bigFileThreshold``)."""
MOST_DATA = 2 * 1024 * 1024 * 1024
"""Of each of git's processes, in bytes."""
MOST_CPU_SECONDS = 1800
_ENDED_FIRST = 500
"""``oom_score_adj`` of git: 0 is the server, 1000 the most."""

HARDENING: tuple[str, ...] = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.alternateRefsCommand=true",  # empty would run the alternate's path
    "core.sshCommand=/bin/false",
    "core.gitProxy=/bin/false",
    "core.askPass=/bin/false",
    "core.pager=cat",
    "core.editor=/bin/false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "credential.helper=",
    "gpg.program=/bin/false",
    "gpg.ssh.program=/bin/false",
    "gpg.x509.program=/bin/false",
    "commit.gpgSign=false",
    "gc.auto=0",  # gc.recentObjectsHook would be run
    "maintenance.auto=false",
    "receive.autogc=false",
    "submodule.recurse=false",
    "protocol.ext.allow=never",
    "transfer.credentialsInUrl=die",
)

SHOWN_REFS: tuple[str, ...] = ("refs/", "!refs/heads", "!refs/tags")
"""Values of ``hideRefs`` that leave branches and tags; they come after the repository's own, and the last that matches counts."""

_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",  # a promisor remote's URL or upload-pack command would be run
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_ALLOC_LIMIT": str(LARGEST_ALLOCATION),
}

_URL_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)[^/\s@]*@")


class GitResult(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace").strip()


class GitCommand(NamedTuple):
    argv: list[str]
    env: dict[str, str]


@cache
def program(name: str) -> str:
    """Absolute path of ``git``, ``setpriv`` or ``prlimit``, looked up once. Raises ``ForgeUnavailable`` when it is not installed."""
    found = shutil.which(name, path=_ENVIRONMENT["PATH"]) or shutil.which(name)
    if found is None:
        package = name if name == "git" else "util-linux"
        raise ForgeUnavailable(
            f"{name} is not installed on the server", f"Install it: `apt-get install {package}`."
        )
    return found


def redact(text: str) -> str:
    """``text`` without user names and passwords in URLs."""
    return _URL_CREDENTIALS.sub(r"\1", text)


def as_owner(owner: Owner | None) -> list[str]:
    """The words to put before a command so that it runs as ``owner``."""
    if owner is None:
        return []
    return [
        program("setpriv"),
        f"--reuid={owner.uid}",
        f"--regid={owner.gid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--no-new-privs",
        "--",
    ]


def identity(role: Literal["AUTHOR", "COMMITTER"], person: Person) -> dict[str, str]:
    """The variables that tell git who the author or the committer is."""
    return {f"GIT_{role}_NAME": person.name, f"GIT_{role}_EMAIL": person.email}


def base_environment() -> dict[str, str]:
    """The whole environment that git gets; nothing of the server's own."""
    return dict(_ENVIRONMENT)


def git_words(safe: Sequence[Path], config: Sequence[str]) -> list[str]:
    """``git`` with every setting that makes it safe. ``safe`` are the folders whose owner has been looked at (``place``)."""
    settings = [*HARDENING, *(f"safe.directory={path}" for path in safe), *config]
    return [program("git"), *(word for one in settings for word in ("-c", one))]


def _command(
    owner: Owner | None, safe: Sequence[Path], config: Sequence[str], args: Sequence[str]
) -> list[str]:
    return [*as_owner(owner), *git_words(safe, config), *args]


class Git:
    """Git in one repository. Cheap to make; holds nothing open."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def in_repository(
        self, args: Sequence[str], *, config: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> GitCommand:
        """A command on the repository's own git folder, with the further settings ``config`` (``key=value``)."""
        place = self.place
        safe = [place.git_dir, *([place.work_tree] if place.work_tree else [])]
        environment = {**_ENVIRONMENT, "GIT_DIR": str(place.git_dir), **(env or {})}
        return GitCommand(_command(place.run_as, safe, config, args), environment)

    def on_objects(
        self,
        args: Sequence[str],
        *,
        sha: str,
        config: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> GitCommand:
        """A command on the objects alone. ``sha`` is any object's full name: its length tells the hash."""
        clean = clean_git_dir("sha256" if len(sha) == 64 else "sha1")
        environment = {
            **_ENVIRONMENT,
            "GIT_DIR": str(clean),
            "GIT_OBJECT_DIRECTORY": str(self.place.git_dir / "objects"),
            **(env or {}),
        }
        shallow = self.place.git_dir / "shallow"
        if shallow.is_file():
            environment["GIT_SHALLOW_FILE"] = str(shallow)
        return GitCommand(_command(self.place.run_as, [clean], config, args), environment)

    async def run(
        self,
        *args: str,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float = CALL_SECONDS,
        config: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> GitResult:
        """Run ``in_repository`` to its end. Raises ``ForgeUnavailable`` for an exit code that is not in ``ok``, too much output or time."""
        return await finish(
            self.in_repository(args, config=config, env=env), stdin=stdin, ok=ok, timeout=timeout
        )

    async def run_on_objects(
        self,
        *args: str,
        sha: str,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float = CALL_SECONDS,
        env: Mapping[str, str] | None = None,
    ) -> GitResult:
        """Run ``on_objects`` to its end; errors as for ``run``."""
        return await finish(self.on_objects(args, sha=sha, env=env), stdin=stdin, ok=ok, timeout=timeout)


@asynccontextmanager
async def running(
    command: GitCommand, *, stdin: int = asyncio.subprocess.PIPE, stderr: int = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The started process, with the bounds on its memory and computing time; when the block is left, however that happens, its whole group is dead and reaped."""
    process = await asyncio.create_subprocess_exec(
        *(program("prlimit"), f"--data={MOST_DATA}", f"--cpu={MOST_CPU_SECONDS}", "--core=0"),
        *command.argv,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=command.env,
        cwd="/",
        start_new_session=True,
    )
    _end_first(process.pid)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # pipes that nobody read to their end would stay open: asyncio offers no public way to close them
        process._transport.close()  # pyright: ignore[reportAttributeAccessIssue]
        await asyncio.shield(process.wait())


def _end_first(pid: int) -> None:
    # it may have ended already, or the host may not allow it: then it is as likely to be ended as the server is
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_ENDED_FIRST))


async def finish(
    command: GitCommand, *, stdin: bytes = b"", ok: Sequence[int] = (0,), timeout: float = CALL_SECONDS
) -> GitResult:
    """Run ``command`` to its end, at most ``timeout`` seconds and ``MAX_OUTPUT`` bytes."""
    try:
        async with asyncio.timeout(timeout), running(command) as process:
            out, err = await _communicate(process, stdin)
            code = await process.wait()
    except TimeoutError as error:
        raise ForgeUnavailable(
            f"git {_verb(command)} took longer than {timeout:g} s",
            "Try again; if it stays, run `git gc` there.",
        ) from error
    except OSError as error:
        raise ForgeUnavailable(
            f"git could not be started: {error.strerror}", "Run `openinspect doctor`."
        ) from error
    stderr = redact(err.decode("utf-8", "replace"))
    if code not in ok:
        raise ForgeUnavailable(f"git {_verb(command)} failed: {last_line(stderr)}", "Run `git fsck` there.")
    return GitResult(code, out, stderr)


NOT_READING = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a process that has ended raises; asyncio's own loop raises the first two, other loops the last for a closed pipe."""


async def _communicate(process: asyncio.subprocess.Process, data: bytes) -> tuple[bytes, bytes]:
    assert process.stdin and process.stdout and process.stderr

    async def feed(writer: asyncio.StreamWriter) -> None:
        if data:
            with contextlib.suppress(*NOT_READING):  # it may end without reading everything
                writer.write(data)
                await writer.drain()
        writer.close()

    # gather and not a task group: the first error comes out as itself, and killing the process then ends the others
    _, out, err = await asyncio.gather(
        feed(process.stdin), _bounded(process.stdout, MAX_OUTPUT), tail(process.stderr)
    )
    return out, err


async def _bounded(stream: asyncio.StreamReader, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await stream.read(65536):
        size += len(chunk)
        if size > most:
            raise ForgeUnavailable(
                f"git printed more than {most >> 20} MiB", "The repository is larger than what can be shown."
            )
        parts.append(chunk)
    return b"".join(parts)


async def tail(stream: asyncio.StreamReader, most: int = 16384) -> bytes:
    """Read ``stream`` to its end and keep the last ``most`` bytes."""
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-most:]
    return kept


def last_line(stderr: str) -> str:
    """The line of git's messages that says what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("fatal:", "error:")):
            return line.split(":", 1)[1].strip()[:500]
    return (lines[-1] if lines else "no message")[:500]


def _verb(command: GitCommand) -> str:
    words = iter(command.argv[command.argv.index(program("git")) + 1 :])
    for word in words:
        if word == "-c":
            next(words, None)
        else:
            return word
    return ""
