"""Where a repository lies, whose it is, and therefore as whom git may run in it.

A repository's own files (config, hooks, attributes) can make git run commands. So git runs as the repository's owner and as nobody else: the
server itself when it owns the folder, the owner's uid and gid when the server is root. Another person's repository that we can't become the owner
of is refused. Nothing here starts git: it only looks at the file system, so it is safe on any folder.

What leads to a repository decides nothing about whose it is: the folder, the links on the way to it, its ``.git``, the git folder and every
folder of objects that it borrows from must have one owner. Else somebody could point at another person's private repository and have it served
with that person's rights. The files may change at any time, so ``locate`` is called before each use, not only when a repository is registered.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple

from ..errors import RepositoryNotFound, RepositoryUnusable

MAX_TEXT = 16 * 1024
MAX_LINKS = 40
MAX_BORROWED = 32
_BORROW_NO_MORE = "Copy the objects into it: run `git repack -a -d` there as its owner, then remove its file objects/info/alternates."


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
    given = path
    try:
        # Path.resolve raises RuntimeError for a loop of links
        path = Path(os.path.realpath(path, strict=True))
        if path.name == ".git" and not _is_bare(path.parent):
            path = path.parent
        git_dir, work_tree = _git_dir(path)
        _check_owners(given, path, git_dir, work_tree)
        check_borrowed(git_dir)
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
    text = _text_of(dot_git, path.stat().st_uid)
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
        uid = found.stat().st_uid
        _one_owner(uid, path.stat().st_uid, path, found)
        found = (found / _text_of(common, uid).strip()).resolve(strict=True)
        if (found / "commondir").exists():  # git would follow it once more, and we have not looked there
            raise RepositoryUnusable(
                f"The git folder {found} leads on to another one", "Remove its file commondir, or run `git fsck` there."
            )  # fmt: skip
    if not _is_bare(found):
        raise RepositoryUnusable(f"The git folder {found} is damaged", "Run `git fsck` there.")
    return found, work_tree


def _check_owners(given: Path, path: Path, git_dir: Path, work_tree: Path | None) -> None:
    uid = git_dir.stat().st_uid
    for link in (*_links(given), *_links(path / ".git")):
        _one_owner(uid, link.lstat().st_uid, link, git_dir, trusted=(0, os.geteuid()))
    if work_tree is not None:
        _one_owner(uid, work_tree.stat().st_uid, work_tree, git_dir)
        _one_owner(uid, (work_tree / ".git").lstat().st_uid, work_tree / ".git", git_dir)


def _one_owner(uid: int, found: int, what: Path, git_dir: Path, trusted: tuple[int, ...] = ()) -> None:
    if found != uid and found not in trusted:
        raise RepositoryUnusable(
            f"{what} belongs to {_user_name(found)}, but leads to the git folder {git_dir}, which belongs to {_user_name(uid)}",
            "Look whether it should lead there. If so, let one user own both (`chown`), or register that git folder by its own path.",
        )


def _links(path: Path) -> list[Path]:
    """The symbolic links that are followed on the way to ``path``, itself included."""
    found: list[Path] = []
    parts = list(reversed(path.absolute().parts[1:]))
    here = Path("/")
    while parts and len(found) < MAX_LINKS:
        part = parts.pop()
        if part == "..":
            here = here.parent
            continue
        here = here / part
        if here.is_symlink():
            found.append(here)
            target = here.readlink()
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            here = Path("/") if target.is_absolute() else here.parent
    return found


def check_borrowed(git_dir: Path) -> None:
    """Raises ``RepositoryUnusable`` when objects are borrowed (``objects/info/alternates``) from a folder of another owner."""
    uid = git_dir.stat().st_uid
    waiting, seen = [(git_dir / "objects").resolve(strict=True)], set[Path]()
    while waiting:
        objects = waiting.pop()
        if objects in seen:
            continue
        seen.add(objects)
        if len(seen) > MAX_BORROWED:
            raise RepositoryUnusable(
                f"{git_dir} borrows objects from more than {MAX_BORROWED} folders", _BORROW_NO_MORE
            )
        inside = [objects / name for name in ("pack", "info") if (objects / name).exists()]
        for folder in (objects, *inside):
            owner = folder.stat().st_uid
            # what root has made in somebody's own folder is not borrowed
            if owner != uid and not (
                owner == 0 and folder.is_relative_to(git_dir) and not folder.is_symlink()
            ):
                raise RepositoryUnusable(
                    f"{git_dir} belongs to {_user_name(uid)} and borrows objects from {folder.resolve()}, which belongs to {_user_name(owner)}",
                    _BORROW_NO_MORE,
                )
        alternates = objects / "info" / "alternates"
        if alternates.exists():
            waiting += _borrowed(objects, _text_of(alternates, uid))


def _borrowed(objects: Path, text: str) -> list[Path]:
    found: list[Path] = []
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        words = [line]
        if line.startswith(
            '"'
        ):  # git may write it as a C string; what it can't read so, it takes as it stands
            with contextlib.suppress(UnicodeError):
                raw = line.strip('"').encode("utf-8", "surrogateescape").decode("unicode_escape")
                words.append(os.fsdecode(raw.encode("latin-1")))
        for word in words:
            # a folder that is not there is passed over by git too
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found.append((objects / word).resolve(strict=True))
    return found


def _text_of(path: Path, uid: int) -> str:
    """A small file's text. Raises ``RepositoryUnusable`` when it is no file, another user's, or too long."""
    # opened before it is looked at, and never waited for: it could be exchanged in between, and be a pipe
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise RepositoryUnusable(f"{path} is damaged", "Run `git status` there and repair it.")
        if found.st_uid != uid:
            raise RepositoryUnusable(
                f"{path} belongs to {_user_name(found.st_uid)}, and its folder to {_user_name(uid)}",
                "Look at what it says. If that is right, let one user own the whole repository (`chown`).",
            )
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise RepositoryUnusable(f"{path} is too long", "Run `git status` there and repair it.")
    return os.fsdecode(data)


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
