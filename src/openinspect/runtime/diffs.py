"""The difference between a work tree and the commit it began from, untracked files included, bounded as ``protocol.diffs`` says.

git runs as the agent and is told to run nothing of the repository's (no hooks, monitors, external differs or text converters); output and time
are bounded. Untracked files are made known to a copy of the index, so that the repository's own is not touched and no object is written.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from openinspect.protocol.diffs import (
    MAX_FILES,
    MAX_PATCH_BYTES,
    MAX_PATCHES_BYTES,
    FileDiff,
    RepositoryDiff,
)

from .git import Git
from .processes import run
from .wording import clean

SECONDS = 30.0
_OUTPUT_BYTES = 64 * 1024 * 1024
_MOST_UNTRACKED = 5_000
_STATUS: dict[str, Literal["added", "modified", "deleted", "renamed", "type_changed", "unmerged"]] = {
    "A": "added",
    "C": "added",
    "M": "modified",
    "D": "deleted",
    "R": "renamed",
    "T": "type_changed",
    "U": "unmerged",
}
_GITLINK = "160000"


class DiffFailed(Exception):
    """The difference can't be told; the text says why."""


@dataclass
class _File:
    status: str
    path: str
    old_path: str | None
    submodule: bool
    additions: int | None = 0
    """None: binary."""
    deletions: int | None = 0
    patch: list[bytes] = field(default_factory=list)


async def repository_diff(git: Git, folder: Path, directory: str, base_sha: str) -> RepositoryDiff:
    """Raises ``DiffFailed``, also when the repository is being worked at in a way that git can't read just now."""
    # side by side: a turn is not over before this is
    asked, listed = await asyncio.gather(
        git.look(folder, "rev-parse", "--absolute-git-dir", "HEAD^{commit}"),
        git.look(folder, "ls-files", "--others", "--exclude-standard", "-z", seconds=SECONDS),
    )
    git_dir, *rest = [*asked.stdout.decode(errors="replace").splitlines(), ""]
    if not git_dir:
        raise DiffFailed("it is no git repository")
    head = rest[0] if asked.code == 0 else None
    untracked = [name for name in listed.stdout.split(b"\0") if name][:_MOST_UNTRACKED]
    index = await _index_with(untracked, git, folder, git_dir) if untracked else None
    done = await git.look(
        folder,
        *("diff", "--raw", "--numstat", "--patch", "-z", "--find-renames", "--no-ext-diff", "--no-textconv"),
        *(
            "--no-color",
            "--full-index",
            "--no-abbrev",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--ignore-submodules=dirty",
        ),
        *(base_sha, "--"),
        seconds=SECONDS,
        bound=_OUTPUT_BYTES,
        env={} if index is None else {"GIT_INDEX_FILE": index},
    )
    if done.timed_out:
        raise DiffFailed(f"git needed more than {SECONDS:.0f} s")
    if done.code != 0 and not done.cut:
        raise DiffFailed(done.said or f"git ended with {done.code}")
    files = _parse(done.stdout)
    return _bounded(directory, base_sha, head, files)


async def _index_with(names: list[bytes], git: Git, folder: Path, git_dir: str) -> str:
    """A copy of the index that knows these untracked files."""
    index = f"{git_dir}/openinspect.index"
    await run(
        ["/bin/sh", "-c", 'rm -f -- "$2" "$2.lock"; cp -f -- "$1" "$2"', "sh", f"{git_dir}/index", index],
        git.account,
        cwd=folder,
        env=git.env,
        seconds=SECONDS,
    )
    await git.look(
        folder,
        *(
            "--literal-pathspecs",
            "add",
            "--intent-to-add",
            "--ignore-errors",
            "--pathspec-from-file=-",
            "--pathspec-file-nul",
        ),
        seconds=SECONDS,
        env={"GIT_INDEX_FILE": index},
        stdin=b"\0".join(names) + b"\0",
    )
    return index


def _text(value: bytes) -> str:
    return clean(value.decode(errors="replace"))[:2_000]


def _parse(output: bytes) -> list[_File]:
    """``--raw`` records, then ``--numstat`` records, then the patches in the same order."""
    files: list[_File] = []
    position = 0

    def token() -> bytes:
        nonlocal position
        end = output.find(b"\0", position)
        if end < 0:
            raise DiffFailed("git's answer was cut off")
        value, position = output[position:end], end + 1
        return value

    while output.startswith(b":", position):
        header = token().decode(errors="replace").split(" ")
        letter = header[4][:1]
        first = token()
        second = token() if letter in "RC" else None
        submodule = _GITLINK in (header[0].lstrip(":"), header[1])
        known = files[-1] if files else None
        path, old = _text(second or first), _text(first) if second is not None else None
        if known is not None and known.path == path and "U" in (known.status, letter):
            # A file in conflict is told twice.
            known.status = "U"
            continue
        files.append(_File(letter, path, old if letter == "R" else None, submodule))
    by_path = {each.path: each for each in files}
    while match := re.compile(rb"(\d+|-)\t(\d+|-)\t").match(output, position):
        position = match.end()
        name = token()
        if not name:
            token()
            name = token()
        found = by_path.get(_text(name))
        if found is not None:
            found.additions = None if match[1] == b"-" else int(match[1])
            found.deletions = None if match[2] == b"-" else int(match[2])
    _share_patches(output[position:].lstrip(b"\0"), files)
    return files


def _share_patches(output: bytes, files: list[_File]) -> None:
    """Give each file its patch. Patches come in the order of the files; one in conflict has none."""
    waiting = iter([each for each in files if each.status != "U"])
    starts = [match.start() for match in re.finditer(rb"(?m)^diff --git ", output)]
    for start, end in zip(starts, [*starts, len(output)][1:], strict=True):
        owner = next(waiting, None)
        if owner is None:
            return
        piece = output[start:end]
        if owner.status == "T" and piece.find(b"\ndeleted file mode") > 0:
            # A change of type is a deletion and a creation.
            waiting = iter([owner, *waiting])
            owner.status = "T2"
        owner.patch.append(piece)


def _bounded(directory: str, base_sha: str, head: str | None, files: list[_File]) -> RepositoryDiff:
    room = MAX_PATCHES_BYTES
    shown: list[FileDiff] = []
    for each in files[:MAX_FILES]:
        patch = b"".join(each.patch)
        text = clean(patch.decode(errors="replace"))
        size = len(text.encode())
        state: Literal["renderable", "metadata_only", "too_large", "binary"] = "renderable"
        if each.additions is None:
            state = "binary"
        elif size > MAX_PATCH_BYTES or size > room:
            state = "too_large"
        elif b"\n@@" not in patch:
            state = "metadata_only"
        status = "submodule" if each.submodule else _STATUS.get(each.status[:1], "modified")
        keep = text if state in ("renderable", "metadata_only") else ""
        room -= len(keep.encode())
        shown.append(
            FileDiff(
                path=each.path,
                old_path=each.old_path,
                status=status,
                state=state,
                additions=each.additions or 0,
                deletions=each.deletions or 0,
                patch=keep,
            )
        )
    return RepositoryDiff(
        directory=directory,
        base_sha=base_sha,
        head_sha=head,
        files=shown,
        more_files=max(0, len(files) - MAX_FILES),
        additions=sum(each.additions or 0 for each in files),
        deletions=sum(each.deletions or 0 for each in files),
    )
