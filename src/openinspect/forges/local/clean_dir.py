"""An empty git folder that every user of this machine may read and only we may write.

Commands that need objects alone run with it as their git folder (``Git.on_objects``). It has one fixed place in the system's folder
for temporary files, because repositories' owners must reach it, which our data folder does not let them.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Literal

_CONFIG = {
    "sha1": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
    "sha256": "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n",
}


def clean_git_dir(hash_name: Literal["sha1", "sha256"]) -> Path:
    """The folder for repositories of this hash; it is made when it is not there, or no longer whole."""
    base = Path(tempfile.gettempdir()) / f"openinspect-git-{os.geteuid()}"
    if not _ours(base):
        base = _squatted_base()
    folder = base / hash_name
    if not _whole(folder):
        _make(folder, _CONFIG[hash_name])
    return folder


def _ours(folder: Path) -> bool:
    """True when ``folder`` is a real one of ours that nobody else can write; made when there is nothing."""
    try:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    except FileExistsError:
        pass
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


_fallback: list[Path] = []


def _squatted_base() -> Path:
    # somebody else has made the fixed place: take an unpredictable one, once for this process
    if not _fallback or not _fallback[0].is_dir():
        made = Path(tempfile.mkdtemp(prefix="openinspect-git-"))
        made.chmod(0o755)
        _fallback[:] = [made]
    return _fallback[0]


def _whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("objects", "refs", "config", "HEAD"))


def _make(folder: Path, config: str) -> None:
    for name in ("", "objects", "refs"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o755)
    for name, text in (("config", config), ("HEAD", "ref: refs/heads/none\n")):
        # written beside and renamed: another process may be making it at the same moment
        beside = folder / f"{name}.{os.getpid()}"
        beside.write_text(text)
        beside.chmod(0o644)
        beside.rename(folder / name)
