"""Becomes a program of the embedded Postgres (``postgres`` or ``initdb``): run as ``python -I -S _launch.py SPEC``, standard library only.

SPEC is JSON: ``{program, arguments, install, libraries, data, run, uid, parent}``; it holds no secret. What it does, then execs the program:

- As root, the program runs under ``uid`` in a private mount namespace, where its files lie at short paths that this uid can walk to: the
  checkout and the data folder may be below a folder that only root may enter. Nothing outside of the namespace is changed.
- ``initdb`` wants a name for its user id: where the system has none, a passwd file that has one is mounted inside the namespace.
- The program gets SIGINT (Postgres: fast shutdown) when the *thread* that started this process ends, thus also when the server is killed.
  This is asked for after the change of user, which would clear it.

A failure before the exec is one line on stderr and exit code 71.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import signal
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if part is None else os.fsencode(part) for part in (source, target, kind)]
    _call("mount", *encoded, ctypes.c_ulong(flags), None if data is None else data.encode())


def _passwd(uid: int, gid: int) -> str:
    return f"root:x:0:0:root:/:/bin/false\nopeninspect:x:{uid}:{gid}::/:/bin/false\n"


def _stage(spec: dict[str, str], uid: int, gid: int) -> tuple[str, str]:
    """Enter a private mount namespace with everything at short paths; the new places of the install and the data folder."""
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    # Opened first: the sources may lie below the folder that the stage is mounted on.
    sources = {name: os.open(spec[name], os.O_PATH) for name in ("install", "libraries", "data", "run")}
    stage = next(path for path in ("/tmp", "/mnt", "/srv") if Path(path).is_dir())
    _mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    places = {
        # The programs find their libraries relative to themselves.
        "install": f"{stage}/site/{Path(spec['install']).parent.name}/{Path(spec['install']).name}",
        "libraries": f"{stage}/site/{Path(spec['libraries']).name}",
        "data": f"{stage}/data",
        "run": f"{stage}/run",
    }
    for name, place in places.items():
        Path(place).mkdir(parents=True)
        _mount(f"/proc/self/fd/{sources[name]}", place, None, MS_BIND | MS_REC)
        os.close(sources[name])
    passwd = Path(stage, "passwd")
    passwd.write_text(_passwd(uid, gid))
    passwd.chmod(0o644)
    _mount(str(passwd), "/etc/passwd", None, MS_BIND)
    return places["install"], places["data"]


def _name_own_uid(run: str) -> None:
    """For an ordinary user without a name: a user namespace of its own, in which /etc/passwd has one."""
    uid, gid = os.getuid(), os.getgid()
    with contextlib.suppress(KeyError):
        pwd.getpwuid(uid)
        return
    try:
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        passwd = Path(run, "passwd")
        passwd.write_text(_passwd(uid, gid))
        _mount(str(passwd), "/etc/passwd", None, MS_BIND)
    except OSError as error:
        raise OSError(
            error.errno,
            f"user id {uid} has no name in /etc/passwd and it cannot be given one ({error.strerror})",
        ) from error


def main() -> None:
    spec = json.loads(sys.argv[1])
    install, data = spec["install"], spec["data"]
    uid = gid = spec["uid"]
    if os.geteuid() == 0:
        try:
            install, data = _stage(spec, uid, gid)
        except PermissionError as error:
            raise OSError(
                f"root may not mount here ({error.strerror}); run the server as an ordinary user, or set OPENINSPECT_DATABASE_URL"
            ) from error
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    elif spec["program"] == "initdb":
        _name_own_uid(spec["run"])
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
    if os.getppid() != spec["parent"]:
        raise OSError("the server that started this process is gone")
    os.umask(0o077)
    os.chdir(data)
    program = f"{install}/bin/{spec['program']}"
    os.execve(program, [program, "-D", data, *spec["arguments"]], dict(os.environ))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.stderr.write(f"cannot start Postgres: {error.strerror or error}\n")
        sys.exit(71)
