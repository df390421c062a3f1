"""The programs that this machine itself has to have, and how they are installed: by apt, as root or through sudo without a password."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from setup.report import Failure, run, say

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Program:
    command: str
    package: str
    """Debian's and Ubuntu's name for it."""
    why: str


RUNNING = (
    Program("git", "git", "every session's repository"),
    Program("bwrap", "bubblewrap", "the sandboxes"),
    Program("newuidmap", "uidmap", "sandboxes of a server that is not run by root"),
    Program("mkfs.ext4", "e2fsprogs", "the sandboxes' disk quotas"),
    Program("rg", "ripgrep", "the agent's search tools"),
)
TESTING = (Program("chromium", "chromium", "the browser tests"),)

_BROWSERS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")


def find(command: str) -> str | None:
    """Like ``which``, but also where only root's PATH leads."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def missing(dev: bool) -> list[Program]:
    wanted = [p for p in RUNNING if find(p.command) is None]
    if dev and not any(find(name) for name in _BROWSERS):
        wanted += TESTING
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        major_minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        default = sys.executable in ("/usr/bin/python3", f"/usr/bin/python{major_minor}")
        package = "python3-venv" if default else f"python{major_minor}-venv"
        wanted.append(Program("ensurepip", package, "the virtual environment"))
    return wanted


def install(programs: list[Program]) -> None:
    """Install what is missing. Raises ``Failure`` with the exact command when that is not ours to do."""
    packages = sorted({p.package for p in programs})
    install_words = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    needed = "; ".join(f"{p.package} ({p.why})" for p in programs)
    if shutil.which("apt-get") is None:
        raise Failure(
            "system packages",
            f"missing here: {needed}; and there is no apt-get to install them with",
            "install them with your system's package manager (the names are Debian's) and run the command again",
        )
    prefix = _privilege()
    if prefix is None:
        raise Failure(
            "system packages",
            f"missing here: {needed}; installing them takes root, and sudo asks for a password",
            f"run this, then the command again:\n    sudo apt-get update && sudo {' '.join(install_words)}",
        )
    say(f"    installing {', '.join(packages)}")
    options = ["-o", "DPkg::Lock::Timeout=300", "-q"]
    remedy = f"run it by hand to see more: {' '.join([*prefix, *install_words])}"
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    what = "system packages"
    run(
        [*prefix, "apt-get", *options, "update"],
        what=what,
        remedy=remedy,
        log="apt-update",
        seconds=600,
        env=quiet,
    )
    env_words = ["env", "DEBIAN_FRONTEND=noninteractive"] if prefix else []
    words = [*prefix, *env_words, "apt-get", *options, *install_words[1:]]
    run(words, what=what, remedy=remedy, log="apt-install", seconds=1800, env=quiet)
    still = [p for p in programs if p.command != "ensurepip" and find(p.command) is None]
    if still:
        names = ", ".join(p.command for p in still)
        raise Failure(
            what, f"apt installed the packages, but these programs are still not there: {names}", remedy
        )


def _privilege() -> list[str] | None:
    """Words to put before a command that needs root; None when there is no way without a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    answer = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=30, check=False)
    return ["sudo", "-n"] if answer.returncode == 0 else None
