"""The process that owns a box: ``python -m openinspect.sandboxes.local.holder <box folder>``.

    launcher   what the provider starts. It forks the holder, writes the id maps for an ordinary user (the two setuid helpers need somebody
               outside of the user namespace), prints one line of JSON when the box runs or can't, and ends
    holder     own session, own mount namespace with the session's disk and the box's tree in it. Outlives the server. It reads the runtime's
               output into a log of bounded size, passes SIGTERM on to the runtime, and writes down how the box ended
    bubblewrap, the box's first process, the runtime: its descendants, each killed when the one above it goes

So when the holder goes, also by SIGKILL, all in the box goes, the mounts with the last process of their namespace, and the loop device with
the last mount. It goes by itself when the box's folder is deleted. Only bubblewrap and below are in the box's user namespace: 65,536 ids, of which
none is host uid 0. Run by an ordinary user the holder is in one of its own around that, for it mounts.

Files in the box's folder: see ``plan``. ``holder.json`` is there from the moment the holder lives; ``started`` in it from the moment the box
runs. ``ended.json`` is there when the box ended while the holder lived. A set-up that failed leaves neither, and may be tried again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from . import cgroups, counts, disk, idmap, kernel, plan, processes, rootfs, seccomp
from .kernel import HostError
from .output import Output
from .plan import IDS, Plan
from .signals import Signals

START_SECONDS = 12.0
_DISK_SECONDS = 5.0
LOOK_SECONDS = 10.0
"""How often it looks whether its folder is still there."""
_OOM_SCORE = 200


def main(arguments: list[str]) -> int:
    box = Path(arguments[0])
    to_launcher, to_holder = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(to_launcher[0])
        os.close(to_holder[1])
        os.setsid()
        os.umask(0o022)
        _silence()
        Holder(box, said=to_launcher[1], heard=to_holder[0]).run()
    os.close(to_launcher[1])
    os.close(to_holder[0])
    return _launch(box, pid, to_launcher[0], to_holder[1])


def _silence() -> None:
    """The launcher's output belongs to the provider, who waits for its end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _launch(box: Path, pid: int, heard: int, said: int) -> int:
    """Serves the holder's one request, and passes on its answer."""
    with os.fdopen(heard, "r") as lines:
        for line in lines:
            message = json.loads(line)
            if "map" in message:
                the = plan.load(box)
                error = idmap.write(pid, the.subuids, the.subgids)
                os.write(said, (error + "\n").encode())
                continue
            print(line, end="", flush=True)
            return 0
    print(json.dumps({"error": "the holder ended before it could start the box", "remedy": "See holder.log"}))
    return 1


class Holder:
    def __init__(self, box: Path, *, said: int, heard: int) -> None:
        self._box = box
        self._said = said
        self._heard = heard
        self._began = time.monotonic()
        self._ended = ""
        """Set when the box was asked to stop: why."""
        self._runtime: int | None = None
        """A pid descriptor."""

    def run(self) -> NoReturn:
        code = 1
        try:
            code = self._hold()
        except HostError as error:
            self._fail(error.reason, error.remedy, error.unavailable)
        except Exception as error:
            traceback.print_exc()
            what = error.strerror if isinstance(error, OSError) else str(error)
            where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
            self._fail(f"the sandbox could not be set up: {what}{where}", "See `openinspect doctor`", False)
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _fail(self, reason: str, remedy: str, unavailable: bool) -> None:
        (self._box / plan.HOLDER).unlink(missing_ok=True)
        self._say({"error": reason, "remedy": remedy, "unavailable": unavailable})

    def _stage(self, what: str) -> None:
        """Into the holder's own log, whose last line tells where it hangs, if it does."""
        print(f"+{(time.monotonic() - self._began) * 1000:.0f} ms: {what}", file=sys.stderr, flush=True)

    def _say(self, message: dict[str, Any]) -> None:
        # The server may be gone by now; the box goes on.
        with contextlib.suppress(BrokenPipeError):
            if self._said >= 0:
                os.write(self._said, (json.dumps(message) + "\n").encode())

    def _fall_silent(self) -> None:
        os.close(self._said)
        self._said = -1

    def _hold(self) -> int:
        lock = os.open(self._box / plan.HOLDER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._say({"held": True, "error": "the sandbox has a holder already"})
            return 1
        me = processes.identify(os.getpid())
        assert me is not None
        note: dict[str, Any] = {"holder": me, "at": time.time()}
        plan.write_whole(self._box / plan.HOLDER, json.dumps(note))

        the = plan.load(self._box)
        self._stage("waiting for the disk")
        # Kept open to the end: it is the lock.
        disk_lock = disk.lock(Path(the.disk_dir), _DISK_SECONDS)
        signals = Signals()
        self._stage("namespaces")
        self._own_mounts(the)
        self._stage("mounting the disk and the file tree")
        rootfs.build(the)
        self._stage("limits")
        place = cgroups.locate()
        limits = place if isinstance(place, cgroups.Place) else None
        groups = [] if limits is None else limits.folders(the.box_id)
        if limits is not None:
            # Noted first: who removes the box must find them whenever this process is killed.
            note["cgroups"] = [str(folder) for folder in groups]
            plan.write_whole(self._box / plan.HOLDER, json.dumps(note))
        log = Output(self._box / plan.RUNTIME_LOG)
        try:
            if limits is not None:
                cgroups.make(limits, the.box_id, the.bounds)
                cgroups.leave(limits)
            self._stage("starting bubblewrap")
            monitor, status = self._start(the, limits, log)
            init = self._await_start(the.bwrap, monitor, status)
            note["started"] = True
            note["init"] = init
            plan.write_whole(self._box / plan.HOLDER, json.dumps(note))
            self._stage("running")
            self._say({"started": me})
            self._fall_silent()
            disk.empty_trash(rootfs.DISK)
            code = self._watch(monitor, signals, log)
        except BaseException:
            log.drain()
            cgroups.remove(groups, 1.0)
            raise
        if init is not None:
            self._gone(init)
        log.drain()
        reason = self._ended
        if code == 137 and cgroups.oom_kills(groups):
            reason = f"killed: out of memory (limit {the.bounds.memory_mib} MiB)"
        plan.write_whole(
            self._box / plan.ENDED, json.dumps({"code": code, "reason": reason, "at": time.time()})
        )
        os.close(disk_lock)
        return 0

    def _own_mounts(self, the: Plan) -> None:
        if the.root:
            try:
                kernel.unshare(kernel.CLONE_NEWNS)
            except PermissionError as error:
                raise HostError(
                    "root may not mount anything here, as in a container with few rights",
                    "Run the server on the host itself, or the container with `--privileged`",
                    unavailable=True,
                ) from error
        else:
            idmap.enter(kernel.CLONE_NEWNS)
            self._say({"map": True})
            problem = os.read(self._heard, 4096).decode().strip()
            if problem:
                raise HostError(
                    f"the ids of the sandbox could not be mapped ({problem})",
                    idmap.REMEDY,
                    unavailable=True,
                )
            os.setgroups([])
            counts.bound_namespace()
        os.close(self._heard)
        # What the host unmounts goes here too, what is mounted here stays here.
        kernel.mount("", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)

    def _start(self, the: Plan, limits: cgroups.Place | None, log: Output) -> tuple[int, int]:
        """Forks what becomes bubblewrap. Returns its pid and the descriptor that it reports on."""
        told, tell = os.pipe()
        ready, confirm = os.pipe()
        status, report = os.pipe()
        holder = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                # So that reading ends when the holder goes.
                os.close(tell)
                _go_first_when_memory_is_short()
                bounded = limits is not None and "pids" in limits.parents
                counts.bound_process(None if bounded else the.bounds.processes)
                # Before the ids change, which would charge it to a user that all boxes share.
                kernel.fresh_session_keyring()
                payer = counts.owner(the)
                if payer is not None:
                    counts.become(payer)
                kernel.unshare(kernel.CLONE_NEWUSER)
                os.write(confirm, b"1")
                if os.read(told, 1) != b"1":
                    os._exit(137)
                _become_box_root()
                kernel.die_with_parent(holder)
                for number in range(1, signal.NSIG):
                    with contextlib.suppress(OSError, ValueError):
                        signal.signal(number, signal.SIG_DFL)
                os.dup2(log.write_end, 1)
                os.dup2(log.write_end, 2)
                os.set_inheritable(report, True)
                program = seccomp.descriptor()
                os.set_inheritable(program, True)
                command = rootfs.bubblewrap(the, status=report, seccomp=program)
                os.execve(command[0], command, the.environment)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(126)
        for descriptor in (told, confirm, report):
            os.close(descriptor)
        log.started()
        if os.read(ready, 1) != b"1":
            raise HostError(
                "the kernel refused a user namespace",
                "Set `sysctl user.max_user_namespaces=15000`",
                unavailable=True,
            )
        os.close(ready)
        for name, ids in (("uid_map", the.subuids), ("gid_map", the.subgids)):
            # An ordinary user's holder hands on what it has, which is in two pieces: no line may span them.
            lines = f"0 0 1\n1 1 {min(ids[1], IDS - 1)}\n" if ids else f"0 {the.host_id(0)} {IDS}\n"
            Path(f"/proc/{pid}/{name}").write_text(lines)
        if limits is not None:
            cgroups.join(limits, the.box_id, pid)
        os.write(tell, b"1")
        os.close(tell)
        return pid, status

    def _await_start(self, bwrap: str, monitor: int, status: int) -> processes.Process | None:
        """Waits until the box's first process has started the second, and that one has become the runtime. None: it has ended already."""
        deadline = time.monotonic() + START_SECONDS
        report = _Report(status)
        first = report.number("child-pid", deadline)
        while first is not None and time.monotonic() < deadline:
            init = processes.identify(first)
            runtime = processes.first_child(first)
            # A process that goes while it is looked at is for the next round.
            with contextlib.suppress(OSError):
                if init is not None and runtime is not None and not _runs(runtime, bwrap):
                    self._runtime = os.pidfd_open(runtime)
                    return init
            if init is None:
                # bubblewrap tells an exit code only of a program that it could start.
                if report.number("exit-code", deadline) is not None:
                    return None
                break
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(monitor, signal.SIGKILL)
        os.waitpid(monitor, 0)
        raise HostError("bubblewrap could not start the sandbox", "See `openinspect doctor`")

    def _watch(self, monitor: int, signals: Signals, log: Output) -> int:
        """Until bubblewrap ends. Returns the runtime's exit code, 128 more than the signal's number where it was one."""
        while True:
            ready, _, _ = select.select([signals.read_end, *log.descriptors], [], [], LOOK_SECONDS)
            if not ready and not (self._box / plan.PLAN).exists():
                raise HostError("the folder of the sandbox was deleted: nobody could find it any more")
            if signals.read_end in ready and signals.stop_wanted():
                self._ended = "stopped"
                with contextlib.suppress(ProcessLookupError):
                    # None: it has ended, and its end is about to be seen here.
                    if self._runtime is not None:
                        signal.pidfd_send_signal(self._runtime, signal.SIGTERM)
            log.read_some()
            ended, status = os.waitpid(monitor, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code

    def _gone(self, init: processes.Process) -> None:
        if not processes.wait_gone(init, 5):
            processes.send(init, signal.SIGKILL)
            processes.wait_gone(init, 5)


def _become_box_root() -> None:
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # Of this user namespace and those in it: bubblewrap needs none, and nothing in the box may make one.
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _runs(pid: int, program: str) -> bool:
    return Path(f"/proc/{pid}/exe").samefile(program)


def _go_first_when_memory_is_short() -> None:
    """Of the whole host: sandboxes before the server."""
    score = Path("/proc/self/oom_score_adj")
    if int(score.read_text()) < _OOM_SCORE:
        score.write_text(str(_OOM_SCORE))


class _Report:
    """bubblewrap's words on ``--json-status-fd``: objects, one to a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = b""

    def number(self, key: str, deadline: float) -> int | None:
        """Waits for a line with this key; None when bubblewrap ended without it, or the time is over."""
        while True:
            for line in self._text.splitlines():
                with contextlib.suppress(ValueError):
                    if key in (found := json.loads(line)):
                        return found[key]
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                return None
            chunk = os.read(self._descriptor, 4096)
            if not chunk:
                return None
            self._text += chunk


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
