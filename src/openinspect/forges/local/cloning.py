"""Cloning a repository into the data folder: bare, bounded in time and size, with its progress told.

The copy appears under its name in one step, by a rename; what an interrupted clone leaves is called ``*.partial`` and is removed by ``sweep``. Git may speak the
address's own scheme and no other, redirects from https to something else included. A file:// source is read by its owner's rights.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..errors import CloneFailed, CloneRefused
from .addresses import CloneAddress
from .git import (
    SHOWN_REFS,
    Git,
    GitCommand,
    as_owner,
    base_environment,
    git_words,
    last_line,
    redact,
    running,
)
from .place import Place, locate, owner_to_become

_SSH = "ssh -oBatchMode=yes -oConnectTimeout=15 -oPermitLocalCommand=no"
# how the server itself reaches the outside; nothing else of its environment is passed on
_INHERITED = (
    "SSH_AUTH_SOCK", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE",
)  # fmt: skip
_PROGRESS = re.compile(r"^(?:remote: )?(?P<phase>[A-Z][A-Za-z ]+): +(?P<percent>\d{1,3})% ")
PARTIAL = ".partial"
_SERVED = tuple(f"uploadpack.hideRefs={ref}" for ref in SHOWN_REFS)


@dataclass(frozen=True)
class CloneLimits:
    seconds: float = 1800
    size_bytes: int = 20 * 1024**3


@dataclass(frozen=True)
class CloneProgress:
    phase: str
    """Git's own words, such as ``Receiving objects``."""
    percent: int


OnProgress = Callable[[CloneProgress], None]


async def clone(
    address: CloneAddress, target: Path, limits: CloneLimits, on_progress: OnProgress | None = None
) -> None:
    """Clone into ``target``, which must not exist. Raises ``CloneFailed``, ``CloneRefused``, or for a file:// source what ``locate`` raises."""
    partial = target.with_name(target.name + PARTIAL)
    owner = owner_to_become(target.parent)
    command = _command(address, partial, owner_words=as_owner(owner))
    try:
        try:
            async with asyncio.timeout(limits.seconds):
                await _run(command, address, partial, limits, on_progress or (lambda _: None))
                place = Place(partial, None, owner)
                await Git(place).run("config", "--remove-section", "remote.origin", ok=(0, 128))
        except TimeoutError as error:
            raise CloneFailed(
                f"Cloning took longer than {limits.seconds:g} s",
                "Try again, or clone it by hand and register the folder.",
            ) from error
        partial.rename(target)
    finally:
        if partial.exists():
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True))


def _command(address: CloneAddress, partial: Path, *, owner_words: list[str]) -> GitCommand:
    environment = {
        **base_environment(),
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "GIT_ALLOW_PROTOCOL": address.scheme,
        "GIT_SSH_COMMAND": _SSH,
    }
    options = ["clone", "--bare", "--progress", "--no-hardlinks", "--template=", "--no-recurse-submodules"]
    url = address.url
    if address.scheme == "file":
        source = locate(Path(address.path), to_copy=True)
        url = f"file://{quote(str(source.git_dir))}"
        # the serving side would run with our rights and without our settings: say how it is to be started
        served = ["env", "GIT_ALLOW_PROTOCOL=none", *as_owner(source.run_as), *git_words([source.git_dir], _SERVED), "upload-pack"]  # fmt: skip
        options.append(f"--upload-pack={shlex.join(served)}")
    config = ("http.lowSpeedLimit=1000", "http.lowSpeedTime=60", "http.followRedirects=initial")
    return GitCommand([*owner_words, *git_words([], config), *options, "--", url, str(partial)], environment)


async def _run(
    command: GitCommand, address: CloneAddress, partial: Path, limits: CloneLimits, on_progress: OnProgress
) -> None:
    async with running(command, stdin=asyncio.subprocess.DEVNULL) as process:
        assert process.stderr is not None and process.stdout is not None
        watch = asyncio.create_task(_watch_size(partial, limits.size_bytes))
        reading = asyncio.create_task(_read_progress(process.stderr, on_progress))
        try:
            await asyncio.wait((watch, reading), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
                raise _too_large(limits)
            messages = await reading
            code = await process.wait()
        finally:
            watch.cancel()
            reading.cancel()
            await asyncio.gather(watch, reading, return_exceptions=True)
    if code != 0:
        raise _failure(address, messages)
    if await asyncio.to_thread(_size, partial) > limits.size_bytes:  # it grew after the last look
        raise _too_large(limits)


async def _read_progress(stream: asyncio.StreamReader, on_progress: OnProgress) -> str:
    """Git's messages without the progress; the last 8 KiB of them."""
    kept, pending = "", b""
    last: tuple[str, int, float] = ("", -1, 0.0)
    while piece := await stream.read(4096):
        pending = (pending + piece)[-65536:]
        *lines, pending = re.split(rb"[\r\n]", pending)
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            found = _PROGRESS.match(line)
            if found is None:
                kept = (kept + line + "\n")[-8192:] if line.strip() else kept
                continue
            phase, percent, now = found["phase"], min(100, int(found["percent"])), time.monotonic()
            if phase != last[0] or (percent != last[1] and (now - last[2] > 0.2 or percent == 100)):
                last = (phase, percent, now)
                on_progress(CloneProgress(phase, percent))
    return kept + pending.decode("utf-8", "replace")


async def _watch_size(folder: Path, most: int) -> None:
    """Returns when ``folder`` has grown over ``most`` bytes."""
    while await asyncio.to_thread(_size, folder) <= most:  # noqa: ASYNC110 - a folder tells nobody that it grows
        await asyncio.sleep(0.5)


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue  # git renames and removes while we look
    return total


def _too_large(limits: CloneLimits) -> CloneRefused:
    return CloneRefused(
        f"The repository is larger than {limits.size_bytes >> 20} MiB",
        "Clone it by hand on the server and register its folder.",
    )


def _failure(address: CloneAddress, messages: str) -> CloneFailed:
    said = last_line(redact(messages))
    remedy = "Check the address, and that the server reaches it."
    if "Authentication failed" in messages or "could not read Username" in messages:
        said, remedy = (
            "the other side wants a sign-in",
            "Use an ssh:// address with the server's own key, or clone it by hand and register the folder.",
        )
    elif "Host key verification failed" in messages:
        remedy = "Connect to that host once with ssh as the server's user, and accept its key."
    elif "Permission denied (publickey" in messages:
        remedy = "Give the public key of the server's user access to the repository."
    return CloneFailed(f"{address.url} could not be cloned: {said}", remedy)


def sweep(folder: Path, *, older_than_seconds: float) -> None:
    """Remove what interrupted clones have left in ``folder``."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        try:
            old = time.time() - entry.stat().st_mtime > older_than_seconds
        except FileNotFoundError:
            continue
        if entry.name.endswith(PARTIAL) and old:
            shutil.rmtree(entry, ignore_errors=True)
