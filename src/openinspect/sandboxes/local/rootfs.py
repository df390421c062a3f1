"""The tree that a box sees, put together in the holder's own mount namespace, and bubblewrap's part of it.

The holder's mounts lie under ``/mnt`` of that namespace (a tmpfs that nobody else sees), because the data folder may lie below a home that
the box's ids can't enter; what is mounted is therefore opened first and bound by descriptor.

    /mnt/disk      the session's disk
    /mnt/parts     writable pieces of the tree, on the tmpfs: etc, run, var, root; shm and pts, each a mount of its own
    /mnt/box       the tree; ``/mnt/box/workspace`` is a shared mount: what the holder mounts on it later shows up in the running box

Everything is nosuid and, but for pts, nodev. bubblewrap adds ``/proc`` and ``/dev``, and its own namespaces. Its pseudo-terminals, which could be all that
the machine has, are covered by ours, which are ``PTYS`` at most.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from . import disk, etc, kernel
from .plan import AGENT, RUNTIME, STATE, Plan

STAGE = Path("/mnt")
BOX = STAGE / "box"
DISK = STAGE / "disk"
PARTS = STAGE / "parts"

OURS = "/opt/openinspect"
_QUIET = kernel.ATTR_NOSUID | kernel.ATTR_NODEV
_ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_READ_ONLY_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs", "pressure")
PTYS = 256
"""Pseudo-terminals of a box. The machine has some 3,000 for all of them."""
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER")
"""Of the runtime, within the box's user namespace; the agent has none."""


def build(plan: Plan) -> None:
    """Mounts everything under ``/mnt``. Call it in a mount namespace of one's own, with mounts not propagating out."""
    sources = _open(_sources(plan))
    root = plan.host_id(0)
    kernel.mount("tmpfs", str(STAGE), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=64m")
    for folder in (BOX, DISK, PARTS):
        folder.mkdir()
    home = _agents_home(sources.get(f"{OURS}/toolbox"))
    disk.mount(plan, DISK, home)
    if home is not None:
        os.close(home)
    _tree(plan, root)
    for inside, descriptor in sources.items():
        _bind(f"/proc/self/fd/{descriptor}", inside, read_only=inside != "/var/lib/openinspect")
        os.close(descriptor)
    for source, inside in (("home/agent", "/home/agent"), ("tmp", "/tmp"), ("var-tmp", "/var/tmp")):
        _bind(str(DISK / source), inside, read_only=False)
    _workspace(plan)
    kernel.set_mount_attributes(str(BOX), _QUIET | kernel.ATTR_RDONLY, recursive=False)


def _sources(plan: Plan) -> dict[str, str]:
    """Where inside → what of the host, read-only but for the reserved space."""
    found = {"/usr": "/usr"}
    for name in _ROOT_LINKS:
        if Path("/", name).is_dir() and not Path("/", name).is_symlink():
            found[f"/{name}"] = f"/{name}"
    for name in etc.bound():
        found[f"/etc/{name}"] = f"/etc/{name}"
    found[f"{OURS}/door"] = plan.door
    if Path(plan.toolbox).is_dir():
        found[f"{OURS}/toolbox"] = plan.toolbox
    if plan.python is not None:
        found[f"{OURS}/python"] = plan.python
    for number, site in enumerate(plan.sites):
        found[f"{OURS}/site{number or ''}"] = site
    for name in ("protocol", "runtime"):
        found[f"{OURS}/lib/openinspect/{name}"] = f"{plan.package}/{name}"
    found["/var/lib/openinspect"] = f"{plan.box_dir}/{STATE}"
    return found


def _open(sources: dict[str, str]) -> dict[str, int]:
    return {
        inside: os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for inside, source in sources.items()
    }


def _agents_home(toolbox: int | None) -> int | None:
    if toolbox is None:
        return None
    try:
        return os.open("opencode-home", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=toolbox)
    except FileNotFoundError:
        return None


def _folder(path: Path, owner: int, mode: int) -> Path:
    path.mkdir(parents=True)
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def _tree(plan: Plan, root: int) -> None:
    agent = plan.host_id(AGENT)
    kernel.mount(str(BOX), str(BOX), flags=kernel.MS_BIND)
    os.chown(BOX, root, root)
    for name in ("dev", "proc", "sys", "home", "opt", "srv", "media", "mnt", "tmp", "usr", "workspace"):
        _folder(BOX / name, root, 0o755)
    for name in _ROOT_LINKS:
        host = Path("/", name)
        if host.is_symlink():
            (BOX / name).symlink_to(host.readlink())
    ours = _folder(BOX / OURS[1:], root, 0o755)
    (ours / "toolbox").mkdir()
    package = _folder(ours / "lib" / "openinspect", root, 0o755)
    (package / "__init__.py").write_bytes(Path(plan.package, "__init__.py").read_bytes())

    written = _folder(PARTS / "etc", root, 0o755)
    etc.write(written, root)
    run = _folder(PARTS / "run", root, 0o755)
    for name in ("lock", "user"):
        _folder(run / name, root, 0o755)
    _folder(run / "user" / str(AGENT), agent, 0o700)
    reserved = _folder(run / "openinspect", root, 0o700)
    config = reserved / RUNTIME
    descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(Path(plan.box_dir, RUNTIME).read_bytes())
    os.chown(config, root, root)
    var = _folder(PARTS / "var", root, 0o755)
    for name in ("cache", "lib", "lib/misc", "lib/openinspect", "log", "mail", "opt", "spool", "tmp"):
        _folder(var / name, root, 0o755)
    (var / "run").symlink_to("/run")
    (var / "lock").symlink_to("/run/lock")
    _folder(PARTS / "root", root, 0o700)
    for name in ("etc", "run", "var", "root"):
        (BOX / name).mkdir()
        _bind(str(PARTS / name), f"/{name}", read_only=False)

    shm = PARTS / "shm"
    shm.mkdir()
    size = f"{plan.bounds.memory_mib // 2}m" if plan.bounds.memory_mib else "50%"
    kernel.mount("tmpfs", str(shm), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=1777,size={size}")
    pts = PARTS / "pts"
    pts.mkdir()
    options = f"newinstance,ptmxmode=0666,mode=0620,max={PTYS}"
    kernel.mount("devpts", str(pts), "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)


def _parents(target: Path) -> None:
    """Makes a mount point; what is new on the way to it belongs to whom the folder above belongs to."""
    if not target.exists():
        _parents(target.parent)
        target.mkdir()
        above = target.parent.stat()
        os.chown(target, above.st_uid, above.st_gid)


def _bind(source: str, inside: str, *, read_only: bool) -> None:
    target = BOX / inside.lstrip("/")
    _parents(target)
    kernel.mount(source, str(target), flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount_attributes(str(target), _QUIET | (kernel.ATTR_RDONLY if read_only else 0))


def _workspace(plan: Plan) -> None:
    place = DISK / "workspace"
    target = str(BOX / "workspace")
    # An ordinary user may not write the trusted.* attributes that overlayfs keeps its notes in.
    options = f"lowerdir={place}/base,upperdir={place}/upper,workdir={place}/work" + (
        "" if plan.root else ",userxattr"
    )
    try:
        kernel.mount("overlay", target, "overlay", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Plain folders on a file system that can't be an upper layer, such as another overlay. The lower one is empty anyway.
        _bind(f"{place}/upper", "/workspace", read_only=False)
    kernel.mount("", target, flags=kernel.MS_SHARED)


def bubblewrap(plan: Plan, *, status: int, seccomp: int) -> list[str]:
    """The command that turns the tree into a box. The descriptors must be inheritable."""
    arguments = [plan.bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", etc.HOSTNAME]
    arguments += ["--cap-drop", "ALL"]
    for capability in CAPABILITIES:
        arguments += ["--cap-add", capability]
    arguments += ["--bind", str(BOX), "/", "--proc", "/proc", "--dev", "/dev"]
    arguments += ["--bind", str(PARTS / "shm"), "/dev/shm", "--dev-bind", str(PARTS / "pts"), "/dev/pts"]
    arguments += ["--chdir", "/"]
    for name in _READ_ONLY_PROC:
        # The host's own are the same, but for pids, which none of these show.
        if Path("/proc", name).exists():
            arguments += ["--ro-bind", f"/proc/{name}", f"/proc/{name}"]
    arguments += ["--json-status-fd", str(status)]
    return [*arguments, "--seccomp", str(seccomp), "--", *plan.command]
