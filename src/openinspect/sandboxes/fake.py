"""``UnisolatedProvider``: the contract without any isolation, for tests of whatever calls a provider.

A box is the runtime as a plain process of the same user, in plain folders, its ``RuntimeConfig.paths`` pointing into them. It sees and may do
all that its user may: never offer it to anybody. No limits, no reserved space, no namespace; otherwise it keeps the contract, and outlives the
server like a real one, held by ``python -m openinspect.sandboxes.fake <box folder>``.

Processes of a box are told by a mark in their environment, so that also those are found that left their parent, their group and their session.
When the holder is killed the runtime goes with it; what the runtime had started goes at ``stop`` or ``release``.

The runtime is started as ``python -m openinspect.runtime <configuration file>``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openinspect.sandboxes import spools
from openinspect.sandboxes.local import kernel, plan, processes
from openinspect.sandboxes.local.output import Output, tail
from openinspect.sandboxes.local.processes import Process
from openinspect.sandboxes.local.signals import Signals
from openinspect.sandboxes.provider import BoxSpec, BoxStatus, Finding, Handle, ProviderError, Spooled
from openinspect.settings import Settings

_INSIDE_DOOR = "/opt/openinspect/door/"
_MARK = "OPENINSPECT_UNISOLATED_BOX"


class UnisolatedProvider:
    name = "unisolated"

    def __init__(self, settings: Settings, *, command: tuple[str, ...] | None = None) -> None:
        """``command``: what to run in a box in place of the runtime; ``{workspace}``, ``{home}`` and ``{state}`` in it are replaced."""
        self._settings = settings
        self._command = command
        self._boxes = settings.data_dir / "unisolated" / "boxes"
        self._disks = settings.data_dir / "unisolated" / "disks"

    async def check(self) -> list[Finding]:
        return [Finding(name="isolation", state="warning", detail="none: this provider is for tests only")]

    async def create(self, spec: BoxSpec) -> Handle:
        return await asyncio.to_thread(self._create, spec)

    async def status(self, handle: Handle) -> BoxStatus:
        return await asyncio.to_thread(self._status, handle)

    async def stop(self, handle: Handle, grace: float = 5.0) -> None:
        await asyncio.to_thread(_stop, self._boxes / handle["box"], grace)

    async def spooled(self, box_id: str, handle: Handle | None, after: int) -> Spooled:
        return await asyncio.to_thread(spools.read, self._boxes / box_id / plan.STATE, after)

    async def release(self, box_id: str, handle: Handle | None) -> None:
        await asyncio.to_thread(self._release, box_id)

    async def delete_disk(self, disk_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._disks / disk_id, ignore_errors=True)

    async def list_boxes(self) -> list[str]:
        return _names(self._boxes)

    async def find(self, box_id: str) -> Handle:
        return {"box": box_id}

    async def list_disks(self) -> list[str]:
        return _names(self._disks)

    def _create(self, spec: BoxSpec) -> Handle:
        box, disk = self._boxes / spec.box_id, self._disks / spec.disk_id
        box.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (box / plan.CREATE_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            note = plan.read_json(box / plan.HOLDER)
            if note is None:
                self._start(spec, box, disk)
                note = _wait_for_note(box)
            return {"box": box.name, **Process(*note["holder"])._asdict()}

    def _start(self, spec: BoxSpec, box: Path, disk: Path) -> None:
        places = {"workspace": disk / "workspace", "home": disk / "home", "state": box / plan.STATE}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        door = spec.runtime.door
        if door.socket is not None and door.socket.startswith(_INSIDE_DOOR):
            outside = self._settings.door_dir / door.socket.removeprefix(_INSIDE_DOOR)
            door = door.model_copy(update={"socket": str(outside)})
        paths = spec.runtime.paths.model_copy(
            update={
                **{name: str(place) for name, place in places.items()},
                "shared": str(box / "shared"),
                "toolbox": str(self._settings.toolbox),
                "git_config": str(box / "gitconfig"),
            }
        )
        config = spec.runtime.model_copy(
            update={"paths": paths, "door": door, "agent_uid": None, "agent_gid": None}
        )
        plan.write_whole(box / plan.RUNTIME, config.model_dump_json())
        command = self._command or (sys.executable, "-m", "openinspect.runtime", str(box / plan.RUNTIME))
        command = [word.format_map({name: str(place) for name, place in places.items()}) if self._command else word for word in command]  # fmt: skip
        environment = {
            "PATH": f"{self._settings.toolbox}/bin:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(places["home"]),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            _MARK: spec.box_id,
        }
        plan.write_whole(
            box / plan.PLAN,
            json.dumps({"command": command, "environment": environment, "cwd": str(places["workspace"])}),
        )
        with (box / plan.HOLDER_LOG).open("wb") as log:
            # The first process ends at once: the holder is its child, and nobody's to wait for.
            subprocess.run(
                [sys.executable, "-P", "-m", "openinspect.sandboxes.fake", str(box)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                timeout=20,
                check=True,
            )

    def _status(self, handle: Handle) -> BoxStatus:
        box = self._boxes / handle["box"]
        note = plan.read_json(box / plan.HOLDER)
        if note is None:
            return BoxStatus(state="gone")
        log = tail(box / plan.RUNTIME_LOG)
        running = processes.alive(Process(*note["holder"]))
        ended = plan.read_json(box / plan.ENDED)
        if ended is not None:
            return BoxStatus(state="exited", exit_code=ended["code"], reason=ended["reason"], log_tail=log)
        if running:
            return BoxStatus(state="running", log_tail=log)
        return BoxStatus(state="exited", reason="its holder process was killed", log_tail=log)

    def _release(self, box_id: str) -> None:
        _stop(self._boxes / box_id, 0.0)
        shutil.rmtree(self._boxes / box_id, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _wait_for_note(box: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (note := plan.read_json(box / plan.HOLDER)) is None:
        if time.monotonic() > deadline:
            raise ProviderError("the box did not start", f"See {box / plan.HOLDER_LOG}")
        time.sleep(0.01)
    return note


def _marked(box: Path) -> list[Process]:
    """Processes that carry the box's mark, however far they have gone from the runtime; the agent, whose environment is its own, carries
    the folder's name."""
    mark, place = f"{_MARK}={box.name}\0".encode(), os.fsencode(box) + b"/"
    found: list[Process] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if mark in environment or place in environment:
                process = processes.identify(int(folder.name))
                if process is not None:
                    found.append(process)
    return found


def _kill_marked(box: Path) -> None:
    # Again until there are none: one may have forked while the list was made.
    for _ in range(20):
        found = _marked(box)
        for process in found:
            processes.send(process, signal.SIGKILL)
        for process in found:
            processes.wait_gone(process, 1)
        if not found:
            return


def _stop(box: Path, grace: float) -> None:
    note = plan.read_json(box / plan.HOLDER)
    if note is None:
        return
    holder = Process(*note["holder"])
    if grace > 0 and processes.send(holder, signal.SIGTERM):
        processes.wait_gone(holder, grace)
    killed = processes.send(holder, signal.SIGKILL)
    processes.wait_gone(holder, 1)
    _kill_marked(box)
    if killed and not (box / plan.ENDED).exists():
        plan.write_whole(box / plan.ENDED, json.dumps({"code": 137, "reason": "stopped", "at": time.time()}))


def hold(box: Path) -> None:
    """The holder: runs the command until it ends, then ends what it left behind."""
    me = processes.identify(os.getpid())
    order = plan.read_json(box / plan.PLAN)
    assert me is not None and order is not None
    signals = Signals()
    log = Output(box / plan.RUNTIME_LOG)
    child = subprocess.Popen(
        order["command"],
        cwd=order["cwd"],
        env=order["environment"],
        stdin=subprocess.DEVNULL,
        stdout=log.write_end,
        stderr=log.write_end,
        start_new_session=True,
        preexec_fn=lambda: kernel.die_with_parent(me.pid),
    )
    log.started()
    plan.write_whole(box / plan.HOLDER, json.dumps({"holder": me}))
    reason = ""
    while child.poll() is None:
        select.select([signals.read_end, *log.descriptors], [], [], 1.0)
        if signals.stop_wanted():
            reason = "stopped"
            child.terminate()
        log.read_some()
    _kill_marked(box)
    log.drain()
    code = child.returncode
    plan.write_whole(
        box / plan.ENDED,
        json.dumps({"code": code if code >= 0 else 128 - code, "reason": reason, "at": time.time()}),
    )


if __name__ == "__main__":
    if os.fork() == 0:
        hold(Path(sys.argv[1]))
