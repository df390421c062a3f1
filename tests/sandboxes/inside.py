"""Questions asked inside a box: the source of this file is run there with the standard library only.

``python -c SOURCE NAME ARGUMENT…`` asks the question ``NAME`` as uid 0 and, in a child that has become the agent, as uid 1000, and writes the
answers as JSON to the reserved space, from where the test reads them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWERS = Path("/var/lib/openinspect/answers.json")
_libc = ctypes.CDLL(None, use_errno=True)


def _try(action: Callable[[], object]) -> str:
    """ "done", or the name of the error."""
    try:
        action()
        return "done"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _call(number: int, *arguments: int) -> str:
    if _libc.syscall(number, *arguments) >= 0:
        return "done"
    return errno.errorcode.get(ctypes.get_errno(), "?")


def who() -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "ids": os.getresuid() + os.getresgid(),
        "groups": os.getgroups(),
        "capabilities": {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")},
        "after_exec": int(
            subprocess.run(
                ["/bin/sh", "-c", "exec grep CapEff /proc/self/status"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()[1],
            16,
        ),
        "no_new_privileges": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "environment": sorted(os.environ),
        "hostname": socket.gethostname(),
        "descriptors": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists()),
        "cgroup": Path("/proc/self/cgroup").read_text(),
    }


def names(*marks: str) -> dict[str, Any]:
    """Which of the words stand in any path, command line or environment that can be seen; and what the top folders hold."""
    seen: set[str] = set()
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "usr")]
        if folder.startswith("/opt/openinspect/"):
            folders[:] = [name for name in folders if name not in ("site", "python", "toolbox")]
        for name in (*folders, *files):
            seen.add(name)
    commands: list[str] = []
    texts: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                text = (process / file).read_bytes().decode(errors="replace")
            except OSError:
                continue
            texts.append(text)
            if file == "cmdline":
                commands.append(text.split("\0")[0])
    return {
        "found": [mark for mark in marks if any(mark in name for name in seen)],
        "in processes": [mark for mark in marks if any(mark in text for text in texts)],
        "commands": commands,
        "top": sorted(os.listdir("/")),  # noqa: PTH208
        "home": sorted(os.listdir("/home")),  # noqa: PTH208
        "etc": sorted(os.listdir("/etc")),  # noqa: PTH208
    }


def opened(*paths: str) -> dict[str, str]:
    return {path: _try(lambda path=path: os.close(os.open(path, os.O_RDONLY))) for path in paths}


def network(port: str, abstract: str) -> dict[str, Any]:
    def reach(family: int, address: Any) -> str:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            return _try(lambda: probe.connect(address))

    host = [line.split()[0] for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    kinds = {}
    for family in (17, 38, 40):
        kinds[family] = _try(lambda family=family: socket.socket(family, socket.SOCK_STREAM).close())
    return {
        "internet": reach(socket.AF_INET, ("1.1.1.1", 443)),
        "internet6": reach(socket.AF_INET6, ("2606:4700:4700::1111", 443)),
        "host": reach(socket.AF_INET, ("127.0.0.1", int(port))),
        "abstract": reach(socket.AF_UNIX, f"\0{abstract}"),
        "metadata": reach(socket.AF_INET, ("169.254.169.254", 80)),
        "interfaces": host,
        "routes": Path("/proc/net/route").read_text().splitlines()[1:],
        "families": kinds,
        "loopback": _own_loopback(),
    }


def _own_loopback() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.settimeout(2)
        return _try(lambda: client.connect(server.getsockname()))


_ITS_OWN = {"/proc/mounts": "a link to the list of the process's own mounts, which nothing can be written to"}
"""What opens for writing under /proc, and why that does no harm. The folders of processes are not looked at: they are the box's own."""


def write_kernel() -> dict[str, Any]:
    """Tries to open each file under /proc and /sys for writing; which could be, the own processes' aside."""
    took: list[str] = []
    tried = 0
    for top in ("/proc", "/sys"):
        for folder, folders, files in os.walk(top):
            if folder == "/proc":
                folders[:] = [name for name in folders if not name.isdigit() and "self" not in name]
            for name in files:
                path = f"{folder}/{name}"
                tried += 1
                if path in _ITS_OWN:
                    continue
                for how in (os.O_WRONLY, os.O_RDWR):
                    if (
                        _try(lambda path=path, how=how: os.close(os.open(path, how | os.O_NONBLOCK)))
                        == "done"
                    ):
                        took.append(path)
    return {"tried": tried, "took": sorted(set(took))}


def mounts() -> dict[str, Any]:
    place = Path(f"/tmp/{os.getuid()}")
    place.mkdir(exist_ok=True)

    def mount(source: bytes, kind: bytes | None, flags: int) -> str:
        result = _libc.mount(source, str(place).encode(), kind, ctypes.c_ulong(flags), None)
        return "done" if result == 0 else errno.errorcode[ctypes.get_errno()]

    def spaces(flags: int) -> str:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if _libc.unshare(flags) == 0 else ctypes.get_errno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return "done" if code == 0 else errno.errorcode.get(code, str(code))

    def remount() -> str:
        result = _libc.mount(None, b"/usr", None, ctypes.c_ulong(32 | 4096), None)
        return "done" if result == 0 else errno.errorcode[ctypes.get_errno()]

    return {
        "tmpfs": mount(b"tmpfs", b"tmpfs", 0),
        "bind": mount(b"/usr", None, 4096),
        "proc": mount(b"proc", b"proc", 0),
        "remount": remount(),
        "unmount": "done" if _libc.umount2(b"/workspace", 2) == 0 else errno.errorcode[ctypes.get_errno()],
        "user namespace": spaces(0x10000000),
        "mount namespace": spaces(0x00020000),
        "net namespace": spaces(0x40000000),
        "device": _try(lambda: os.mknod(str(place / "device"), 0o600 | stat.S_IFBLK, os.makedev(7, 0))),
        "chroot": _try(lambda: os.chroot("/tmp")),
        "keyctl": _call(250, 0, -3, 1) if os.uname().machine == "x86_64" else "EPERM",
        "bpf": _call(321, 0, 0, 0) if os.uname().machine == "x86_64" else "ENOSYS",
        "io_uring": _call(425, 1, 0),
        "aio": _call(206, 1, 0) if os.uname().machine == "x86_64" else "ENOSYS",
    }


def door() -> dict[str, Any]:
    place = "/opt/openinspect/door"

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(f"{place}/gateway.sock")

    return {
        "connect": _try(connect),
        "unlink": _try(lambda: os.unlink(f"{place}/gateway.sock")),  # noqa: PTH108
        "rename": _try(lambda: os.rename(f"{place}/gateway.sock", f"{place}/other")),  # noqa: PTH104
        "create": _try(lambda: Path(place, "new").touch()),
        "over": _try(lambda: os.rename("/tmp", place)),  # noqa: PTH104
        "chmod": _try(lambda: os.chmod(f"{place}/gateway.sock", 0o777)),  # noqa: PTH101
    }


def setuid() -> dict[str, Any]:
    """A shell of uid 0 with the setuid bit, made by uid 0 and run by the agent."""
    made = Path("/tmp/shell")
    if os.getuid() == 0:
        made.write_bytes(Path("/bin/bash").resolve().read_bytes())
        made.chmod(0o4755)
    told = subprocess.run([str(made), "-p", "-c", "id -u"], capture_output=True, text=True, check=False)
    host = [path for path in ("/usr/bin/su", "/usr/bin/newuidmap", "/usr/bin/passwd") if os.path.exists(path)]  # noqa: PTH110
    return {"id": told.stdout.strip(), "host": host}


def agent_may() -> dict[str, Any]:
    """What the agent must not reach of the runtime's, and what it needs."""

    def write(path: str) -> str:
        return _try(lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)))

    def replace() -> None:
        if os.getuid() != 0:
            os.rename("/etc/gitconfig", "/etc/gitconfig.old")  # noqa: PTH104

    runtime = "2"
    return {
        "config": _try(lambda: Path("/run/openinspect/runtime.json").read_bytes()),
        "reserved": _try(lambda: os.listdir("/var/lib/openinspect")),  # noqa: PTH208
        "root": _try(lambda: os.listdir("/root")),  # noqa: PTH208
        "runtime's environment": _try(lambda: Path(f"/proc/{runtime}/environ").read_bytes()),
        "runtime's memory": _try(lambda: Path(f"/proc/{runtime}/mem").open("rb").close()),
        "runtime's descriptors": _try(lambda: os.listdir(f"/proc/{runtime}/fd")),  # noqa: PTH208
        "kill": _try(lambda: os.kill(int(runtime), 0)),
        "gitconfig": write("/etc/gitconfig"),
        "replace gitconfig": _try(replace),
        "passwd": write("/etc/passwd"),
        "hosts": write("/etc/hosts"),
        "usr": write("/usr/bin/new"),
        "site": write("/opt/openinspect/site/new"),
        "lib": write("/opt/openinspect/lib/openinspect/runtime/new"),
        "top": write("/new"),
        "home's parent": write("/home/new"),
        "workspace": write(f"/workspace/new-{os.getuid()}"),
        "home": write(f"/home/agent/new-{os.getuid()}"),
        "tmp": write(f"/tmp/new-{os.getuid()}"),
        "var tmp": write(f"/var/tmp/new-{os.getuid()}"),
        "shm": write(f"/dev/shm/new-{os.getuid()}"),
        "run": write(f"/run/user/1000/new-{os.getuid()}"),
    }


def runtime_may() -> dict[str, Any]:
    """uid 0 only: what the runtime must be able to do."""
    if os.getuid() != 0:
        return {}
    made = Path("/workspace/owned")
    made.touch()
    sleeper = subprocess.Popen(["sleep", "600"], user=1000, group=1000, extra_groups=[])
    answer = {
        "config": _try(lambda: Path("/run/openinspect/runtime.json").read_bytes()),
        "reserved": _try(lambda: Path("/var/lib/openinspect/new").touch()),
        "gitconfig": _try(lambda: Path("/etc/gitconfig").write_text("[user]\n")),
        "git": _try(lambda: subprocess.run(["git", "config", "--system", "user.name", "x"], check=True)),
        "chown": [_try(lambda owner=owner: os.chown(made, owner, owner)) for owner in (1, 33, 1000, 65534)],
        "agent's files": _try(lambda: Path("/home/agent/new").write_text("")),
        "kill": _try(sleeper.kill),
    }
    sleeper.wait()
    return answer


def fill(place: str, mebibytes: str) -> dict[str, Any]:
    """How much of so many MiB could be written there."""
    written = 0
    chunk = os.urandom(1024 * 1024)
    path = Path(place, f"big-{os.getuid()}")
    error = "done"
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(int(mebibytes)):
                written += file.write(chunk)
            os.fsync(file.fileno())
    except OSError as failed:
        error = errno.errorcode[failed.errno or 0]
    try:
        path.unlink()
    except OSError as failed:
        error += " " + errno.errorcode[failed.errno or 0]
    return {"mebibytes": written // 1024 // 1024, "error": error}


def fill_sockets(mebibytes: str, connections: str) -> dict[str, Any]:
    """How much of so many MiB could be sent to so many connections within the box that nobody reads."""
    kept: list[socket.socket] = []
    sent, piece = 0, bytes(1024 * 1024)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(int(connections)):
            client = socket.create_connection(server.getsockname())
            kept += [client, server.accept()[0]]
            client.setblocking(False)
            try:
                while sent < int(mebibytes) * len(piece):
                    sent += client.send(piece)
            except BlockingIOError:
                continue
    for one in kept:
        one.close()
    return {"mebibytes": sent // len(piece)}


def fork_many(number: str) -> dict[str, Any]:
    children: list[subprocess.Popen[bytes]] = []
    error = "done"
    for _ in range(int(number)):
        try:
            children.append(subprocess.Popen(["sleep", "60"]))
        except OSError as failed:
            error = errno.errorcode[failed.errno or 0]
            break
    for child in children:
        child.kill()
        child.wait()
    return {"started": len(children), "error": error}


def _kinds() -> dict[str, Callable[[], int]]:
    """What is counted by user or for the whole machine: makes one, to be kept; negative or ``OSError`` when there is none left."""
    found: dict[str, Callable[[], int]] = {
        "inotify": _libc.inotify_init,
        "fanotify": lambda: _libc.fanotify_init(0x200, 0),
        "pty": lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
    }
    if os.uname().machine == "x86_64":
        found["queue"] = _message_queue
    return found


def _message_queue() -> int:
    """Without a name, so that it goes with its descriptor. By numbers, for Python's library has none (x86_64)."""
    name = f"counted-{os.getpid()}".encode()
    made = _libc.syscall(240, name, os.O_RDWR | os.O_CREAT, 0o600, None)
    if made >= 0:
        _libc.syscall(241, name)
    return made


def _one(make: Callable[[], int]) -> int:
    try:
        return make()
    except OSError:
        return -1


def _take() -> dict[str, int]:
    took: dict[str, int] = {}
    for kind, make in _kinds().items():
        took[kind] = 0
        while took[kind] < 4000 and _one(make) >= 0:
            took[kind] += 1
    return took


def take_all() -> dict[str, Any]:
    """Takes all that can be had, as uid 0 and as the agent, says so, and keeps it."""
    took = _take()
    # The agent has descriptors of its own.
    heard, say = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        os.write(say, json.dumps(_take()).encode())
        time.sleep(600)
    print("taken", json.dumps([took, json.loads(os.read(heard, 4096))]), flush=True)
    time.sleep(600)
    return {}


def one_of_each() -> dict[str, Any]:
    made = {kind: _one(make) for kind, make in _kinds().items()}
    for descriptor in made.values():
        if descriptor >= 0:
            os.close(descriptor)
    return {kind: descriptor >= 0 for kind, descriptor in made.items()}


def _as_agent(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    heard, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            answer: dict[str, Any] = question()
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        with os.fdopen(say, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(say)
    with os.fdopen(heard) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def main() -> None:
    name, *arguments = sys.argv[1:]

    def question() -> dict[str, Any]:
        return globals()[name](*arguments)

    try:
        answers = {"root": question(), "agent": _as_agent(question)}
    except BaseException:
        answers = {"root": {"failed": traceback.format_exc()}, "agent": {}}
    ANSWERS.with_suffix(".new").write_text(json.dumps(answers))
    ANSWERS.with_suffix(".new").rename(ANSWERS)


if __name__ == "__main__":
    main()
