"""What ``openinspect doctor`` says about this host: each finding from something that was really tried, each failure with a remedy.

The trial box is made in a folder of its own, so that no janitor takes it for a box that no row knows.
"""

from __future__ import annotations

import asyncio
import os
import platform
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from openinspect.protocol.config import AgentConfig, Door, RuntimeConfig
from openinspect.sandboxes.provider import BoxSpec, Finding, Limits, ProviderError
from openinspect.settings import Settings

from . import cgroups, host, idmap, image
from .kernel import HostError
from .plan import IDS

if TYPE_CHECKING:
    from .provider import LocalProvider

_TRIAL_SECONDS = 8.0
_TRIAL_CODE = 42
_OLDEST_KERNEL = (5, 12)
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_APPARMOR_REMEDY = (
    "Load the profile of deploy/apparmor/openinspect and run the server under it (docs/reference/platforms.md says how); "
    "or `sysctl kernel.apparmor_restrict_unprivileged_userns=0` (and in /etc/sysctl.d); or run the server as root"
)


async def run(settings: Settings) -> list[Finding]:
    """All findings, in the order that a person would mend them in. At most 10 s."""
    found = await asyncio.to_thread(_look, settings)
    if all(finding.state != "failed" for finding in found):
        found.append(await _trial(settings))
    return found


def _look(settings: Settings) -> list[Finding]:
    found = [_kernel(), _bubblewrap()]
    found.append(_root_ids(settings) if os.geteuid() == 0 else _ordinary_ids())
    found.append(_disk_size())
    found.append(_limits())
    return found


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(word) for word in re.findall(r"\d+", release)[:2])
    if platform.system() != "Linux" or numbers < _OLDEST_KERNEL:
        return Finding(
            name="sandbox kernel",
            state="failed",
            detail=f"{platform.system()} {release}",
            remedy="Run the server on Linux 5.12 or newer, such as Debian 12 or Ubuntu 22.04",
        )
    return Finding(name="sandbox kernel", state="ok", detail=f"Linux {release}")


def _bubblewrap() -> Finding:
    try:
        command = [host.bubblewrap(), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except HostError as error:
        return Finding(name="bubblewrap", state="failed", detail=error.reason, remedy=error.remedy)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            name="bubblewrap",
            state="failed",
            detail=f"it does not run ({error})",
            remedy="`apt install --reinstall bubblewrap`",
        )
    return Finding(name="bubblewrap", state="ok", detail=done.stdout.strip())


def _root_ids(settings: Settings) -> Finding:
    first = settings.sandbox_uid_base
    last = first + IDS - 1
    taken = [entry.pw_name for entry in pwd.getpwall() if first <= entry.pw_uid <= last]
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        if file.exists():
            for line in file.read_text().splitlines():
                name, _, rest = line.partition(":")
                begin, _, count = rest.partition(":")
                if (
                    begin.isdigit()
                    and count.isdigit()
                    and int(begin) <= last
                    and int(begin) + int(count) > first
                ):
                    taken.append(f"{name} ({file})")
    if taken:
        return Finding(
            name="sandbox ids",
            state="warning",
            detail=f"host ids {first} to {last} are also those of {', '.join(sorted(set(taken))[:5])}",
            remedy="Set OPENINSPECT_SANDBOX_UID_BASE to the first of 65,536 ids that nobody has, before the first session",
        )
    return Finding(name="sandbox ids", state="ok", detail=f"sandboxes live in host ids {first} to {last}")


def _ordinary_ids() -> Finding:
    missing = [
        name for name in ("newuidmap", "newgidmap") if shutil.which(name, path=host.SYSTEM_PATH) is None
    ]
    ranges = idmap.own_ranges()
    if missing or any(ids is None or ids[1] < IDS - 1 for ids in ranges):
        what = f"{' and '.join(missing)} not found" if missing else "this user has no range of 65,536 ids"
        return Finding(name="sandbox ids", state="failed", detail=what, remedy=idmap.REMEDY)
    if _APPARMOR.exists() and _APPARMOR.read_text().strip() == "1":
        return Finding(
            name="sandbox ids",
            state="warning",
            detail="AppArmor keeps ordinary users' user namespaces from doing anything (Ubuntu 24.04 does so by default)",
            remedy=_APPARMOR_REMEDY,
        )
    subuids = ranges[0]
    assert subuids is not None
    return Finding(
        name="sandbox ids",
        state="ok",
        detail=f"sandboxes live in this user's id and {subuids[0]} to {subuids[0] + subuids[1] - 1}",
    )


def _disk_size() -> Finding:
    if image.loops_work():
        return Finding(
            name="sandbox disk size",
            state="ok",
            detail="each session's files are an ext4 image of bounded size",
        )
    why = (
        "the server is not run by root" if os.geteuid() != 0 else "there are no loop devices, or no mkfs.ext4"
    )
    return Finding(
        name="sandbox disk size",
        state="warning",
        detail=f"not limited, for {why}: a session can fill the disk",
        remedy="Run the server as root with loop devices and `apt install e2fsprogs`, or put the data folder on a partition of its own",
    )


def _limits() -> Finding:
    place = cgroups.locate()
    if isinstance(place, cgroups.Refusal):
        return Finding(
            name="sandbox limits",
            state="warning",
            detail=f"memory and processor time are not limited: {place.reason}",
            remedy=place.remedy,
        )
    missing = sorted(set(cgroups.CONTROLLERS) - set(place.parents))
    if missing:
        return Finding(
            name="sandbox limits",
            state="warning",
            detail=f"not limited for want of a cgroup controller: {', '.join(missing)}",
            remedy="Enable it on the kernel's command line (cgroup_enable=memory), or use cgroup version 2",
        )
    return Finding(
        name="sandbox limits",
        state="ok",
        detail=f"memory, processor and processes by cgroups (version {place.version})",
    )


async def _trial(settings: Settings) -> Finding:
    """One real box, from start to end."""
    # It imports this module too.
    from .provider import LocalProvider

    parent = settings.data_dir / "sandboxes"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="trial-", dir=parent))
    except OSError as error:
        return Finding(
            name="sandbox",
            state="failed",
            detail=f"no trial is possible: {error.strerror}: {error.filename}",
            remedy="Make the data folder writable, or choose another by OPENINSPECT_DATA_DIR",
        )
    provider = LocalProvider(
        settings.model_copy(update={"data_dir": place, "toolbox_dir": settings.toolbox}),
        command=("/bin/sh", "-c", f"test -w /workspace && exit {_TRIAL_CODE}"),
    )
    name = place.name
    agent = AgentConfig(providers=[], default_model="none/none", small_model="none/none")
    runtime = RuntimeConfig(sandbox_id=name, token="none", door=Door(socket="/none"), agent=agent)
    began = time.monotonic()
    try:
        async with asyncio.timeout(_TRIAL_SECONDS):
            handle = await provider.create(
                BoxSpec(box_id=name, disk_id=name, runtime=runtime, limits=Limits(disk_mib=64))
            )
            took = time.monotonic() - began
            status = await provider.status(handle)
            while status.state == "running":
                await asyncio.sleep(0.02)
                status = await provider.status(handle)
    except ProviderError as error:
        return _failed(error.reason, error.remedy)
    except TimeoutError:
        return _failed(
            f"a trial did not end within {_TRIAL_SECONDS:.0f} s",
            "Look for a hanging disk, or an overloaded machine",
        )
    finally:
        await _clear(provider, name, place)
    if status.exit_code != _TRIAL_CODE:
        return _failed(
            f"a trial ended with {status.exit_code}: {status.log_tail[-300:].strip()}", "See the message"
        )
    return Finding(name="sandbox", state="ok", detail=f"a trial ran, started in {took * 1000:.0f} ms")


def _failed(detail: str, remedy: str) -> Finding:
    if _APPARMOR.exists() and _APPARMOR.read_text().strip() == "1" and os.geteuid() != 0:
        remedy = _APPARMOR_REMEDY
    return Finding(name="sandbox", state="failed", detail=detail, remedy=remedy or "Run the server as root")


async def _clear(provider: LocalProvider, name: str, place: Path) -> None:
    try:
        await provider.release(name, None)
        await provider.delete_disk(name)
    finally:
        await asyncio.to_thread(shutil.rmtree, place, True)
