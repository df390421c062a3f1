"""``openinspect doctor``: what this machine can and can't do for the server, each with a remedy where something is missing.

``run_checks`` looks at the server's own needs here and asks every sandbox provider for its part. Nothing is changed, no check takes longer than
20 s, and a check that itself fails becomes a finding. Passwords and keys never stand in a finding.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import psycopg

from openinspect.db.binaries import find_binaries
from openinspect.problems import ProblemError
from openinspect.sandboxes.local import LocalProvider
from openinspect.sandboxes.provider import Finding, SandboxProvider
from openinspect.settings import Settings

CHECK_SECONDS = 20.0
_GIT_NEEDED = (2, 39)
_POSTGRES_NEEDED = 14
_FREE_NEEDED_MIB = 1024
_FREE_WANTED_MIB = 10 * 1024
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


async def run_checks(
    settings: Settings, providers: Sequence[SandboxProvider] | None = None, *, server: int | None = None
) -> list[Finding]:
    """All findings in a fixed order: the server's own, then each provider's (by default the local one's).

    ``server`` is the process of the server that runs on this data folder, if one does. What a check runs into is a finding, not an error.
    """
    if providers is None:
        providers = [LocalProvider(settings)]
    asked: list[tuple[str, Callable[[], Awaitable[list[Finding]]]]] = []
    for name, check in _CHECKS.items():
        asked.append((name, lambda check=check: _in_thread(check, settings)))
    asked.insert(_PORT_PLACE, ("port", lambda: _in_thread(lambda given: check_port(given, server), settings)))
    for provider in providers:
        asked.append((f"{provider.name} sandboxes", provider.check))
    answers: dict[int, list[Finding]] = {}

    async def answer(place: int) -> None:
        answers[place] = await _bounded(*asked[place])

    async with anyio.create_task_group() as group:
        for place in range(len(asked)):
            group.start_soon(answer, place)
    return [finding for place in range(len(asked)) for finding in answers[place]]


async def _in_thread(check: Callable[[Settings], Finding], settings: Settings) -> list[Finding]:
    return [await anyio.to_thread.run_sync(check, settings, abandon_on_cancel=True)]


async def _bounded(name: str, call: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        with anyio.fail_after(CHECK_SECONDS):
            return await call()
    except TimeoutError:
        return [
            _failed(
                name,
                f"the check did not end within {CHECK_SECONDS:.0f} s",
                "See what this machine is busy with, and try again.",
            )
        ]
    except ProblemError as problem:
        return [_failed(name, problem.message, problem.remedy)]
    except (
        Exception
    ) as error:  # A check that breaks tells something about the host, too, and must not hide the others.
        kind = type(error).__name__
        return [
            _failed(
                name,
                f"the check itself failed ({kind})",
                "Please report it with the output of `openinspect doctor --json`.",
            )
        ]


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, state="ok", detail=detail)


def _warning(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name=name, state="warning", detail=detail, remedy=remedy)


def _failed(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name=name, state="failed", detail=detail, remedy=remedy)


def _output(*command: str | Path) -> str:
    """What a program printed; empty when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS - 2,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def check_system(settings: Settings) -> Finding:
    detail = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if platform.system() != "Linux":
        return _failed(
            "system",
            detail,
            "Sandboxes need Linux: run the server in a Linux virtual machine (docs/reference/platforms.md).",
        )
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    detail = f"{detail}, {cores} cores, {memory} MiB of memory, Python {platform.python_version()}"
    if memory < settings.sandbox_memory_mib:
        return _warning(
            "system",
            f"{detail}: less than one sandbox may use ({settings.sandbox_memory_mib} MiB)",
            "Set OPENINSPECT_SANDBOX_MEMORY_MIB lower (about 1024 is the least that the agent works well with), or add memory.",
        )
    return _ok("system", detail)


def check_git(settings: Settings) -> Finding:
    said = _output("git", "--version")
    match = re.search(r"(\d+)\.(\d+)", said)
    install = "Install it: apt install git."
    if match is None:
        return _failed("git", "there is no git that runs", install)
    if (int(match[1]), int(match[2])) < _GIT_NEEDED:
        needed = ".".join(map(str, _GIT_NEEDED))
        return _failed(
            "git", f"{said} is older than {needed}", f"Update it to {needed} or newer (Debian 12 has it)."
        )
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return _failed(
            "git",
            "there is no setpriv, by which git becomes the owner of a repository instead of root",
            "Install it: apt install util-linux.",
        )
    return _ok("git", said)


def check_toolbox(settings: Settings) -> Finding:
    """Node and OpenCode for the sandboxes. Both are started, so that a broken copy shows here and not in a session."""
    binaries = settings.toolbox / "bin"
    remedy = "Run `make run` or `make demo` in the checkout, which installs it, or set OPENINSPECT_TOOLBOX_DIR to where it is."
    try:
        noted = json.loads((settings.toolbox / "versions.json").read_text())
    except (OSError, ValueError):
        noted = {}
    if not os.access(binaries / "node", os.X_OK) or not os.access(binaries / "opencode", os.X_OK):
        return _failed(
            "toolbox", f"Node and OpenCode for the sandboxes are not in {settings.toolbox}", remedy
        )
    with tempfile.TemporaryDirectory(prefix="openinspect-doctor-") as home:
        found = {
            "Node": _output(binaries / "node", "--version").removeprefix("v"),
            "OpenCode": _output(
                "env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", binaries / "opencode", "--version"
            ),
        }
    broken = [name for name, version in found.items() if not version]
    if broken:
        return _failed(
            "toolbox",
            f"{' and '.join(broken)} in {settings.toolbox} can't be started",
            f"Remove that folder. {remedy}",
        )
    if not isinstance(noted, dict) or noted.get("opencode") != found["OpenCode"]:
        return _warning(
            "toolbox",
            f"OpenCode {found['OpenCode']} is not the one that was installed there",
            f"Remove {settings.toolbox}. {remedy}",
        )
    return _ok("toolbox", ", ".join(f"{name} {version}" for name, version in found.items()))


def check_database(settings: Settings) -> Finding:
    if settings.database_url is None:
        return _check_embedded()
    try:
        with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=8) as connection:
            version = connection.info.server_version // 10000
    except (psycopg.Error, ValueError):
        # The driver's own words may quote the address, password and all.
        place = urlsplit(settings.database_url.get_secret_value())
        return _failed(
            "database",
            f"the Postgres server at {place.hostname or 'the given address'} does not let us in",
            "Check OPENINSPECT_DATABASE_URL with psql: host, port, name, user, password, TLS.",
        )
    if version < _POSTGRES_NEEDED:
        return _failed(
            "database", f"your server is PostgreSQL {version}", f"Use PostgreSQL {_POSTGRES_NEEDED} or newer."
        )
    return _ok("database", f"your own server, PostgreSQL {version}")


def _check_embedded() -> Finding:
    binaries = find_binaries()
    said = _output(binaries.program("postgres"), "--version")
    if not said:
        return _failed(
            "database",
            "the embedded PostgreSQL can't be started",
            f"See what `{binaries.program('postgres')} --version` says (a missing library?), or set OPENINSPECT_DATABASE_URL to your own server.",
        )
    return _ok("database", f"embedded, {said}")


def check_data_folder(settings: Settings) -> Finding:
    """Writable (really tried, in the nearest folder that exists) and with space."""
    folder = settings.data_dir
    existing = folder
    elsewhere = "set OPENINSPECT_DATA_DIR to another folder"
    try:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".openinspect-doctor-") as file:
            file.write(b"x" * 65536)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return _failed(
            "data folder",
            f"{existing} can't be written: {reason}",
            f"Give this user the right to write there, or {elsewhere}.",
        )
    free = shutil.disk_usage(existing).free // 2**20
    detail = f"{folder}, {free / 1024:.1f} GiB free"
    if free < _FREE_NEEDED_MIB:
        return _failed(
            "data folder",
            detail,
            f"At least {_FREE_NEEDED_MIB} MiB are needed: free some space, or {elsewhere}.",
        )
    if free < max(_FREE_WANTED_MIB, settings.sandbox_disk_mib):
        return _warning("data folder", detail, f"A few sessions fill that: free some space, or {elsewhere}.")
    return _ok("data folder", detail)


def check_port(settings: Settings, server: int | None = None) -> Finding:
    """``server``: the process that may have it, because it is the one of this data folder."""
    address = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return _ok("port", "a free one is chosen at start")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _port_in_use(settings.port, address, server)
        reason = error.strerror or type(error).__name__
        return _failed(
            "port",
            f"{address} can't be listened on: {reason}",
            "Set OPENINSPECT_HOST and OPENINSPECT_PORT to an address of this machine.",
        )
    return _ok("port", f"{address} is free")


def _port_in_use(port: int, address: str, server: int | None) -> Finding:
    owner = _listener(port)
    if owner is not None and owner[0] == server:
        return _ok("port", f"{address} is served by this data folder's server (process {server})")
    who = f"process {owner[0]}, `{owner[1][:60]}`" if owner else "a process that this user may not see"
    if server is not None:
        return _ok(
            "port", f"this data folder's server (process {server}) runs on another port; {address} is {who}'s"
        )
    return _warning(
        "port",
        f"{address} is in use by {who}, which is not this data folder's server",
        "End that program, or choose another port: export OPENINSPECT_PORT=8911 (0 takes a free one).",
    )


def _listener(port: int) -> tuple[int, str] | None:
    """Process id and command line of whoever listens on a TCP port, as far as this user may see it."""
    sockets: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in sockets for link in (process / "fd").iterdir()):
                return int(process.name), (process / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:  # It ended meanwhile, or belongs to somebody else.
            continue
    return None


def check_address(settings: Settings) -> Finding:
    """Whether what people type, and their cookies, travel in the clear."""
    public = urlsplit(settings.base_url)
    if public.scheme == "https":
        return _ok("address", settings.base_url)
    if settings.public_url is None and settings.host in _LOOPBACK:
        return _ok("address", f"{settings.base_url}, for this machine only")
    return _warning(
        "address",
        f"{settings.base_url} is not encrypted: cookies and prompts can be read on the way",
        "Put a reverse proxy with TLS before it and set OPENINSPECT_PUBLIC_URL to its https address (docs/how-to/deploy.md).",
    )


def check_models(settings: Settings) -> Finding:
    keys = {
        "Anthropic": settings.anthropic_api_key,
        "OpenAI": settings.openai_api_key,
        "OpenCode Zen": settings.opencode_api_key,
    }
    named = [name for name, key in keys.items() if key is not None and key.get_secret_value()]
    if named:
        return _ok("models", f"keys for {', '.join(named)}")
    if settings.scripted_model_url or settings.scripted_model:
        return _warning(
            "models",
            "only the scripted model answers",
            "For real work set ANTHROPIC_API_KEY or OPENAI_API_KEY.",
        )
    return _warning(
        "models",
        "no provider's key is set",
        "Set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENCODE_API_KEY and start the server anew.",
    )


_CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "system": check_system,
    "git": check_git,
    "toolbox": check_toolbox,
    "database": check_database,
    "data folder": check_data_folder,
    "address": check_address,
    "models": check_models,
}
_PORT_PLACE = list(_CHECKS).index("data folder") + 1
