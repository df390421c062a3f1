"""Where a repository lies, whose it is, and therefore as whom git may run in it.

A repository's own files (config, hooks, attributes) can make git run commands. So git runs as the repository's owner and as nobody else: the
server itself when it owns the folder, the owner's uid and gid when the server is root. Another person's repository that we can't become the owner
of is refused. Nothing here starts git: it only looks at the file system, so it is safe on any folder.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NamedTuple

from ..errors import RepositoryNotFound, RepositoryUnusable


class Owner(NamedTuple):
    uid: int
    gid: int


class Place(NamedTuple):
    git_dir: Path
    """The common git directory: refs, objects and config are here."""
    work_tree: Path | None
    """The folder with the checked-out files, as it was given; None for a bare repository."""
    run_as: Owner | None
    """Whom git becomes before it runs; None: it runs as we do."""


def locate(path: Path, *, to_copy: bool = False) -> Place:
    """Find the repository at ``path`` (its top folder, its ``.git``, or a bare repository).

    With ``to_copy`` another user's repository is also given to a server that can't become that user: git's serving side may be run in it, nothing else.

    Raises ``RepositoryNotFound`` when there is no such folder, ``RepositoryUnusable`` when it is no repository or must not be touched.
    """
    try:
        path = Path(
            os.path.realpath(path, strict=True)
        )  # Path.resolve raises RuntimeError for a loop of links
        if path.name == ".git" and not _is_bare(path.parent):
            path = path.parent
        git_dir, work_tree = _git_dir(path)
        return Place(git_dir, work_tree, _reader(git_dir) if to_copy else owner_to_become(git_dir))
    except FileNotFoundError as error:
        raise RepositoryNotFound(
            f"There is no folder {path}", "Check the path; it is looked up on the server's machine."
        ) from error
    except (PermissionError, NotADirectoryError, OSError) as error:
        raise RepositoryUnusable(
            f"{path} can't be read: {error.strerror}", "Let the server's user read this folder."
        ) from error


def _is_bare(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def work_tree_git_dir(path: Path) -> Path:
    """The git folder of the work tree at ``path``: of a linked one its own, not the common one. Raises ``RepositoryUnusable``."""
    dot_git = path / ".git"
    if dot_git.is_dir():
        return dot_git.resolve()
    text = _small_text(dot_git) if dot_git.is_file() else ""
    if not text.startswith("gitdir: "):
        raise RepositoryUnusable(f"{dot_git} is damaged", "Run `git status` there and repair it.")
    return (path / text[len("gitdir: ") :].strip()).resolve(strict=True)


def _git_dir(path: Path) -> tuple[Path, Path | None]:
    if (path / ".git").exists():
        found, work_tree = work_tree_git_dir(path), path
    elif _is_bare(path):
        found, work_tree = path, None
    else:
        raise RepositoryUnusable(
            f"{path} is not a git repository",
            "Give the top folder of a repository, or run `git init` and make a first commit there.",
        )
    common = found / "commondir"
    if common.is_file():
        found = (found / _small_text(common).strip()).resolve(strict=True)
    if not _is_bare(found):
        raise RepositoryUnusable(f"The git folder {found} is damaged", "Run `git fsck` there.")
    return found, work_tree


def _small_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8", "replace")


def _reader(folder: Path) -> Owner | None:
    return owner_to_become(folder) if os.geteuid() == 0 else None


def owner_to_become(folder: Path) -> Owner | None:
    """Whom git has to become to work in ``folder``. Raises ``RepositoryUnusable`` when that is impossible or unsafe."""
    uid = folder.stat().st_uid
    us = os.geteuid()
    for name in ("config", "HEAD", "objects", "refs"):
        entry = folder / name
        # somebody else's config in a folder of ours would be read with our rights
        if entry.exists() and entry.stat().st_uid not in (uid, 0):
            raise RepositoryUnusable(
                f"{entry} belongs to another user than {folder}",
                f"Make one user own the whole repository: `chown -R {_user_name(uid)} {folder}`.",
            )
    if uid == us:
        return None
    if us != 0:
        raise RepositoryUnusable(
            f"{folder} belongs to {_user_name(uid)}, and the server runs as {_user_name(us)}",
            "Run the server as that user or as root, or add the repository by its file:// URL, which makes a copy.",
        )
    return Owner(uid, _group_of(uid, folder))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def _group_of(uid: int, folder: Path) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = folder.stat().st_gid
        return gid if gid != 0 else uid
