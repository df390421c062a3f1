"""What of this host goes into every box: bubblewrap's path, the interpreter, the packages, the ids. Found once per provider."""

from __future__ import annotations

import compileall
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import openinspect

from .kernel import HostError
from .rootfs import OURS

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SOURCES = str(Path(openinspect.__file__).resolve().parents[1])


@dataclass(frozen=True)
class Interpreter:
    prefix: str | None
    """To be mounted at ``/opt/openinspect/python``; None where it lies below ``/usr`` and is there anyway."""
    inside: str
    """The executable as a box sees it."""
    sites: tuple[str, ...]
    package: str


def bubblewrap() -> str:
    found = shutil.which("bwrap", path=SYSTEM_PATH)
    if found is None:
        raise HostError("bubblewrap is not installed", "`apt install bubblewrap`", unavailable=True)
    return found


def interpreter() -> Interpreter:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = Path(sys.base_prefix).resolve()
    executable = prefix / "bin" / version
    if not executable.exists():
        raise HostError(f"{executable} is missing", "Use a Python that has it", unavailable=True)
    below_usr = prefix.is_relative_to("/usr")
    # In this order: what a virtual environment holds, then what a distribution's Python adds.
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    package = Path(openinspect.__file__).resolve().parent
    return Interpreter(
        prefix=None if below_usr else str(prefix),
        inside=str(executable) if below_usr else f"{OURS}/python/bin/{version}",
        sites=tuple(place for place in places if Path(place).is_dir()),
        package=str(package),
    )


def compile_runtime(package: Path) -> None:
    """Byte code beside the sources, so that a box, which can't write there, needn't compile. A read-only install has it or goes without."""
    for name in ("protocol", "runtime"):
        if os.access(package / name, os.W_OK):
            compileall.compile_dir(str(package / name), quiet=2)


def environment(the: Interpreter) -> dict[str, str]:
    """All that the runtime finds in its environment; nothing of the server's."""
    packages = [f"{OURS}/lib", *(f"{OURS}/site{number or ''}" for number in range(len(the.sites)))]
    found = {
        "PATH": f"{OURS}/toolbox/bin:{SYSTEM_PATH}",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if the.prefix is not None and any(Path(the.prefix, "lib").glob("libpython*.so*")):
        found["LD_LIBRARY_PATH"] = f"{OURS}/python/lib"
    return found


def helper(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs one of this package's programs, and its whole environment.

    Without ``site``: they need the standard library only, and start the faster.
    """
    command = [sys.executable, "-S", "-P", "-m", f"openinspect.sandboxes.local.{module}", *arguments]
    return command, {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "PYTHONPATH": _SOURCES}
