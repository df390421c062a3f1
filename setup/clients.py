"""How this machine's package clients reach their registries, handed on to a bare system: ``python3 -m setup.clients ROOT``.

Indexes, mirrors, proxies, certificates and credentials of apt, pip, uv and npm, whatever they are; settings that name folders of this machine are
left out, since those do not exist there. Writes into ROOT only; the environment's share goes to ROOT/etc/openinspect-fresh.env, as shell words.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

_VARIABLES = re.compile(
    r"(PIP|UV|NPM_CONFIG|npm_config)_\w+|(https?|no|all|ftp)_proxy|(HTTPS?|NO|ALL|FTP)_PROXY"
)
_CERTIFICATES = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
]
_OF_THIS_MACHINE = re.compile(
    r"(^|_)(prefix|cache|cache_dir|nodedir|userconfig|globalconfig|target|root|tool_dir|python\w*|build_\w+|link_mode)$",
    re.I,
)
_APT_ACQUIRE = re.compile(r"Acquire::(https?|Check-|Retries|Force|By-Hash)\b")


def main(root: Path) -> None:
    _certificates(root)
    _environment(root)
    _apt(root)
    _pip(root)
    _npm(root)


def _said(*command: str) -> list[str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _copy(root: Path, source: Path) -> None:
    """To the same place below ROOT, links followed; nothing when it is not there."""
    target = root / source.relative_to("/")
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _is_local(value: str) -> bool:
    return value.startswith(("/", "file:", "~", "."))


def _certificates(root: Path) -> None:
    """The bundle that everything trusts, and what an administrator has added to it."""
    _copy(root, Path("/etc/ssl/certs/ca-certificates.crt"))
    _copy(root, Path("/usr/local/share/ca-certificates"))
    for name in _CERTIFICATES:
        _copy(root, Path(os.environ.get(name) or "/nonexistent"))


def _environment(root: Path) -> None:
    lines: list[str] = []
    for name, value in sorted(os.environ.items()):
        wanted = _VARIABLES.fullmatch(name) and not _OF_THIS_MACHINE.search(name) and not _is_local(value)
        if wanted or (name in _CERTIFICATES and Path(value).is_file()):
            lines.append(f"export {name}={shlex.quote(value)}")
    _write(root / "etc" / "openinspect-fresh.env", lines)


def _apt(root: Path) -> None:
    _write(
        root / "etc/apt/apt.conf.d/90host",
        [line for line in _said("apt-config", "dump") if _APT_ACQUIRE.match(line)],
    )
    _copy(root, Path("/etc/apt/auth.conf"))
    _copy(root, Path("/etc/apt/auth.conf.d"))
    if _codename(Path("/")) != _codename(root):
        return  # Another distribution's sources are of no use there; debootstrap's own stand.
    for name in ("sources.list.d", "trusted.gpg.d", "keyrings", "sources.list"):
        _copy(root, Path("/etc/apt") / name)
    if not Path("/etc/apt/sources.list").exists():
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
    _copy(root, Path("/usr/share/keyrings"))


def _codename(root: Path) -> str:
    try:
        found = re.search(r"^VERSION_CODENAME=\"?(\w+)", (root / "etc/os-release").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _pip(root: Path) -> None:
    settings: dict[str, str] = {}
    for line in _said(sys.executable, "-m", "pip", "config", "list"):
        key, _, quoted = line.partition("=")
        section, _, option = key.rpartition(".")
        if (
            section not in ("global", "install")
            or not quoted
            or _OF_THIS_MACHINE.search(option.replace("-", "_"))
        ):
            continue
        words = str(ast.literal_eval(quoted)).split()
        kept = words if option in ("cert", "client-cert") else [word for word in words if not _is_local(word)]
        if option == "cert":
            _copy(root, Path(words[0]))
        if kept:
            settings[option] = " ".join(kept)
    _write(
        root / "etc/pip.conf", ["[global]", *(f"{option} = {value}" for option, value in settings.items())]
    )


def _npm(root: Path) -> None:
    """All in the one file that every npm reads, wherever it is installed."""
    places = [Path("/etc/npmrc"), Path("/usr/etc/npmrc"), Path.home() / ".npmrc"]
    lines: list[str] = []
    for place in places:
        for line in place.read_text().splitlines() if place.is_file() else []:
            key, _, value = (part.strip() for part in line.partition("="))
            if key == "cafile":
                _copy(root, Path(value.strip("\"'")))
            if key and value and not _OF_THIS_MACHINE.search(key.replace("-", "_")):
                lines.append(f"{key}={value}")
    _write(root / "root/.npmrc", lines)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)  # Credentials may be among them.


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
