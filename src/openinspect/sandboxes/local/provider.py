"""``LocalProvider``: the contract of ``sandboxes.provider`` on this machine.

Everything about a box is in its folder, ``<data>/sandboxes/boxes/<box id>``, everything that it leaves in ``<data>/sandboxes/disks/<disk id>``;
the provider itself remembers nothing, so any server process can call any method, also at the same time. A handle names the box and the holder
(pid, start time, boot); it is only needed to see that a folder was made anew.

    create    folder, lock, plan → launcher (at most 20 s) → handle. A holder that lives is found by its lock on ``holder.lock``
    stop      SIGTERM to the holder, who passes it on; after ``grace`` SIGKILL to the holder and to the box's first process
    spooled   from the box's folder (see ``sandboxes.spools``)
    release   stop without grace, cgroups, folder. The folder goes last, so that a release that was interrupted is seen by ``list_boxes``

Blocking work runs in threads, which a cancelled call waits for. Raises ``ProviderError`` and ``ProviderUnavailable`` only, and ``ValueError`` for an id that can't be a folder's
name.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from openinspect.sandboxes import spools
from openinspect.sandboxes.provider import (
    BoxSpec,
    BoxStatus,
    Finding,
    Handle,
    ProviderError,
    ProviderUnavailable,
    Spooled,
)
from openinspect.settings import Settings

from . import cgroups, disk, host, idmap, image, output, plan, processes
from .kernel import HostError
from .plan import Bounds, Plan
from .processes import Process

_CREATE_SECONDS = 20.0
_DIES_WITHIN = 1.0
_REMOVED = ".removed-"
"""Before the name of a folder that is being deleted."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class LocalProvider:
    name = "local"

    def __init__(self, settings: Settings, *, command: tuple[str, ...] | None = None) -> None:
        """``command``: what to run in a box in place of the runtime; for tests of the box itself."""
        self._settings = settings
        self._command = command
        self._boxes = settings.data_dir / "sandboxes" / "boxes"
        self._disks = settings.data_dir / "sandboxes" / "disks"
        self._interpreter: host.Interpreter | None = None

    async def check(self) -> list[Finding]:
        from . import checks

        return await checks.run(self._settings)

    async def create(self, spec: BoxSpec) -> Handle:
        deadline = time.monotonic() + _CREATE_SECONDS
        box = self._box(spec.box_id)
        with _translated():
            async with _alone(box, deadline):
                found = await run_sync(self._found, box, deadline)
                if found is not None:
                    return found
                await run_sync(self._prepare, spec)
                answer = await self._launch(box, deadline)
                if "held" in answer:
                    # A launcher of a server that was killed has just been quicker.
                    found = await run_sync(self._found, box, deadline)
                    if found is not None:
                        return found
                return _started(box, answer)

    async def status(self, handle: Handle) -> BoxStatus:
        return await run_sync(self._status, handle)

    async def stop(self, handle: Handle, grace: float = 5.0) -> None:
        with _translated():
            await run_sync(_stop, self._box(handle["box"]), _process(handle), grace)

    async def spooled(self, box_id: str, handle: Handle | None, after: int) -> Spooled:
        with _translated():
            return await run_sync(spools.read, self._box(box_id) / plan.STATE, after)

    async def release(self, box_id: str, handle: Handle | None) -> None:
        with _translated():
            await run_sync(self._release, box_id, handle)

    async def delete_disk(self, disk_id: str) -> None:
        with _translated():
            await run_sync(self._delete_disk, self._disk(disk_id))

    async def list_boxes(self) -> list[str]:
        return await run_sync(_names, self._boxes)

    async def find(self, box_id: str) -> Handle:
        return {"box": self._box(box_id).name}  # its folder says the rest

    async def list_disks(self) -> list[str]:
        return await run_sync(_names, self._disks)

    def _box(self, box_id: str) -> Path:
        return self._boxes / _checked_id(box_id)

    def _disk(self, disk_id: str) -> Path:
        return self._disks / _checked_id(disk_id)

    def _found(self, box: Path, deadline: float) -> Handle | None:
        """The box that an earlier call started, running or ended."""
        while True:
            note = plan.read_json(box / plan.HOLDER)
            holder = _noted(note, "holder")
            if note is not None and holder is not None and "started" in note:
                return _handle(box, holder)
            if not _held(box):
                return None
            if time.monotonic() > deadline:
                raise HostError("the sandbox that was being started did not come up in time", "Try again")
            time.sleep(0.02)

    def _prepare(self, spec: BoxSpec) -> None:
        if self._interpreter is None:
            self._interpreter = host.interpreter()
            host.compile_runtime(Path(self._interpreter.package))
        the = self._interpreter
        box, keep = self._box(spec.box_id), self._disk(spec.disk_id)
        ordinary = os.geteuid() != 0
        # An ordinary user's box has other ids, which must be able to pass through these (their parents are private).
        keep.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._settings.door_dir.mkdir(parents=True, exist_ok=True)
        (box / plan.HOLDER).unlink(missing_ok=True)
        subuids, subgids = idmap.own_ranges() if ordinary else (None, None)
        base = None if ordinary else self._settings.sandbox_uid_base
        state = box / plan.STATE
        state.mkdir(mode=0o700, exist_ok=True)
        if base is not None:
            os.chown(state, base, base)
        plan.write_whole(box / plan.RUNTIME, spec.runtime.model_dump_json())
        plan.save(
            Plan(
                box_id=spec.box_id,
                box_dir=str(box),
                disk_dir=str(keep),
                bwrap=host.bubblewrap(),
                uid_base=base,
                subuids=subuids,
                subgids=subgids,
                bounds=Bounds(**spec.limits.model_dump()),
                door=str(self._settings.door_dir),
                toolbox=str(self._settings.toolbox),
                python=the.prefix,
                sites=the.sites,
                package=the.package,
                command=self._command or (the.inside, "-P", "-m", "openinspect.runtime"),
                environment=host.environment(the),
            )
        )

    async def _launch(self, box: Path, deadline: float) -> dict[str, Any]:
        """Starts the holder; what the launcher says of it."""
        command, environment = host.helper("holder", str(box))
        log = os.open(box / plan.HOLDER_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(log)
        try:
            out, _ = await asyncio.wait_for(process.communicate(), max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            await run_sync(_stop, box, None, 0.0)
            said = await run_sync(output.tail, box / plan.HOLDER_LOG, 300)
            last = said.strip().rpartition("\n")[2] or "its start"
            raise HostError(
                f"the sandbox was not set up within {_CREATE_SECONDS:.0f} s (it came to: {last})",
                "The host may be overloaded",
            ) from None
        finally:
            # Also when the caller gave up: without the launcher the holder goes on, and is found by the next call.
            if process.returncode is None:
                process.kill()
        return json.loads(out.splitlines()[-1]) if out.strip() else {}

    def _status(self, handle: Handle) -> BoxStatus:
        box = self._box(handle["box"])
        if not (box / plan.PLAN).exists():
            return BoxStatus(state="gone")
        log = output.tail(box / plan.RUNTIME_LOG)
        note = plan.read_json(box / plan.HOLDER)
        holder = _noted(note, "holder")
        # In this order: a holder that is found dead has written down the end before, if it ever does.
        running = holder is not None and processes.alive(holder)
        ended = plan.read_json(box / plan.ENDED)
        if ended is not None:
            return BoxStatus(state="exited", exit_code=ended["code"], reason=ended["reason"], log_tail=log)
        if note is not None and running:
            return BoxStatus(state="running", reason=_warning(note), log_tail=log)
        if holder is None or holder.boot == processes.boot_id():
            return BoxStatus(state="exited", reason="its holder process was killed", log_tail=log)
        return BoxStatus(state="exited", reason="this machine was restarted", log_tail=log)

    def _release(self, box_id: str, handle: Handle | None) -> None:
        box = self._box(box_id)
        groups = _groups(plan.read_json(box / plan.HOLDER))
        _stop(box, None if handle is None else _process(handle), 0.0)
        # Read again: a holder that was just starting may have made them before it was killed.
        cgroups.remove(sorted({*groups, *_groups(plan.read_json(box / plan.HOLDER))}))
        _remove(box)

    def _delete_disk(self, place: Path) -> None:
        if not place.exists():
            _remove(place)
            return
        lock = disk.lock(place, 5.0)
        try:
            if not image.wait_detached(place / disk.IMAGE, 5.0):
                raise HostError(f"the disk {place.name} is still mounted", "Release its box first")
            _remove(place)
        finally:
            os.close(lock)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except HostError as error:
        kind = ProviderUnavailable if error.unavailable else ProviderError
        raise kind(error.reason, error.remedy) from error
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        raise ProviderError(f"the host refused ({what})", "See `openinspect doctor`") from error


def _checked_id(word: str) -> str:
    if not _ID.fullmatch(word):
        raise ValueError(f"not an id: {word[:140]!r}")
    return word


def _names(folder: Path) -> list[str]:
    try:
        return sorted({path.name.removeprefix(_REMOVED) for path in folder.iterdir() if path.is_dir()})
    except FileNotFoundError:
        return []


@contextlib.asynccontextmanager
async def _alone(box: Path, deadline: float) -> AsyncIterator[None]:
    """One ``create`` at a time for a box, in whatever process."""
    descriptor = await run_sync(_open_lock, box)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise HostError("the sandbox is being started by somebody else", "Try again")
            await asyncio.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _open_lock(box: Path) -> int:
    box.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(box / plan.CREATE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(box: Path) -> bool:
    """Whether a holder lives, also one that has written nothing yet."""
    try:
        descriptor = os.open(box / plan.HOLDER_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _started(box: Path, answer: dict[str, Any]) -> Handle:
    if "started" in answer:
        return _handle(box, Process(*answer["started"]))
    said = output.tail(box / plan.RUNTIME_LOG, 600).strip()
    reason = answer.get("error") or "the holder did not start"
    raise HostError(
        f"{reason}: {said}" if said else reason,
        answer.get("remedy") or "See `openinspect doctor`",
        unavailable=bool(answer.get("unavailable")),
    )


def _handle(box: Path, holder: Process) -> Handle:
    return {"box": box.name, **holder._asdict()}


def _process(handle: Handle) -> Process | None:
    return Process(handle["pid"], handle["start"], handle["boot"]) if "pid" in handle else None


def _noted(note: dict[str, Any] | None, name: str) -> Process | None:
    return Process(*note[name]) if note is not None and note.get(name) else None


def _groups(note: dict[str, Any] | None) -> list[Path]:
    return [Path(folder) for folder in (note or {}).get("cgroups", [])]


def _warning(note: dict[str, Any]) -> str:
    kills = cgroups.oom_kills(_groups(note))
    return f"out of memory: {kills} of its processes were killed" if kills else ""


def _stop(box: Path, known: Process | None, grace: float) -> None:
    note = plan.read_json(box / plan.HOLDER)
    holder, init = _noted(note, "holder") or known, _noted(note, "init")
    killed = False
    if holder is not None:
        if grace > 0 and processes.send(holder, signal.SIGTERM):
            processes.wait_gone(holder, grace)
        killed = processes.send(holder, signal.SIGKILL)
        processes.wait_gone(holder, _DIES_WITHIN)
    if init is not None:
        processes.send(init, signal.SIGKILL)
        processes.wait_gone(init, _DIES_WITHIN)
    if killed and note is not None and not (box / plan.ENDED).exists():
        reason = "stopped" if grace == 0 else f"stopped: killed, for it did not end within {grace:g} s"
        plan.write_whole(box / plan.ENDED, json.dumps({"code": 137, "reason": reason, "at": time.time()}))


def _remove(folder: Path) -> None:
    """Deletes a box's or a disk's folder. Renamed first: half a folder must not be taken for a whole one."""
    gone = folder.with_name(f"{_REMOVED}{folder.name}")
    _delete(gone)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    _delete(gone)


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        if os.geteuid() == 0:
            raise
        # Files of an ordinary user's box may belong to the user's subordinate ids.
        command, environment = host.helper("idmap", str(folder))
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        )
        if done.returncode != 0:
            raise HostError(done.stderr.decode(errors="replace").strip()[-500:]) from None
