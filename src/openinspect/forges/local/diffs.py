"""The difference of two commits as files with unified patches, read as a stream and bounded (``protocol.diffs``).

Two passes of ``git diff-tree`` on the objects alone: one for the list of files and their counts, one for the patches, in the same order. Of neither
more is held in memory than what is kept. After ``MAX_SCAN_BYTES`` of patches the remaining files are ``too_large``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, NamedTuple

from ...protocol.diffs import MAX_FILES, MAX_PATCH_BYTES, MAX_PATCHES_BYTES, FileDiff, RepositoryDiff
from ..contract import CALL_SECONDS
from ..errors import ForgeUnavailable
from .git import Git, GitCommand, running

MAX_LIST_BYTES = 16 * 1024 * 1024
MAX_SCAN_BYTES = 64 * 1024 * 1024
_OPTIONS = ("-r", "-M", "-l1000", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "--no-color")
_NEXT = b"\ndiff --git "
_GITLINK = "160000"

Status = Literal["added", "modified", "deleted", "renamed", "type_changed", "unmerged", "submodule"]
_STATUS: dict[str, Status] = {
    "A": "added",
    "C": "added",
    "M": "modified",
    "D": "deleted",
    "R": "renamed",
    "T": "type_changed",
    "U": "unmerged",
}


class _Changed(NamedTuple):
    status: Status
    path: str
    old_path: str | None
    blocks: int
    """How many pieces of the patch belong to it: two when a file becomes a link."""


class _Counts(NamedTuple):
    additions: int
    deletions: int
    binary: bool


async def diff(git: Git, base_sha: str, head_sha: str, *, directory: str) -> RepositoryDiff:
    """What ``head_sha`` changes against ``base_sha``. Takes 60 s at most."""
    listing = git.on_objects(
        ("diff-tree", *_OPTIONS, "--raw", "--numstat", "-z", base_sha, head_sha), sha=head_sha
    )
    patches = git.on_objects(
        ("diff-tree", *_OPTIONS, "-p", "--src-prefix=a/", "--dst-prefix=b/", base_sha, head_sha),
        sha=head_sha,
        config=("core.quotePath=false",),
    )
    try:
        async with asyncio.timeout(2 * CALL_SECONDS):
            changed, counts = _parse_listing(await _read(listing, MAX_LIST_BYTES))
            files = await _with_patches(patches, changed[:MAX_FILES], counts)
    except TimeoutError as error:
        raise ForgeUnavailable(
            "The difference took too long to compute", "Look at it with git itself."
        ) from error
    return RepositoryDiff(
        directory=directory,
        base_sha=base_sha,
        head_sha=head_sha,
        files=files,
        more_files=max(0, len(changed) - MAX_FILES),
        additions=sum(count.additions for count in counts),
        deletions=sum(count.deletions for count in counts),
    )


async def _read(command: GitCommand, most: int) -> bytes:
    kept = bytearray()
    async with aclosing(_output(command, most)) as pieces:
        async for piece in pieces:
            kept += piece
    return bytes(kept)


async def _output(command: GitCommand, most: int) -> AsyncGenerator[bytes, None]:
    """Git's output, at most ``most`` bytes of it. Raises ``ForgeUnavailable`` when git failed."""
    async with running(
        command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while piece := await process.stdout.read(65536):
            yield piece
            most -= len(piece)
            if most <= 0:
                return
        if await process.wait() != 0:
            raise ForgeUnavailable(
                "git could not compute the difference", "Run `git fsck` in the repository."
            )


def _parse_listing(raw: bytes) -> tuple[list[_Changed], list[_Counts]]:
    tokens = raw.decode("utf-8", "replace").split("\0")[
        :-1
    ]  # what follows the last NUL is empty or was cut off
    changed: list[_Changed] = []
    counts: list[_Counts] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        width = 1
        if token.startswith(":"):
            old_mode, new_mode, _, _, letter = token[1:].split(" ")
            width = 3 if letter[0] in "RC" else 2
            names = tokens[position + 1 : position + width]
            if len(names) < width - 1:
                break
            submodule = _GITLINK in (old_mode, new_mode)
            status = "submodule" if submodule else _STATUS.get(letter[0], "modified")
            kinds_differ = old_mode[:2] != new_mode[:2] and "000000" not in (old_mode, new_mode)
            renamed = width == 3
            changed.append(
                _Changed(status, names[-1], names[0] if renamed else None, 2 if kinds_differ else 1)
            )
        else:
            additions, deletions, path = token.split("\t", 2)
            binary = additions == "-"
            counts.append(_Counts(0, 0, True) if binary else _Counts(int(additions), int(deletions), False))
            width = 1 if path else 3
        position += width
    return changed, counts


async def _with_patches(
    command: GitCommand, changed: list[_Changed], counts: list[_Counts]
) -> list[FileDiff]:
    files: list[FileDiff] = []
    budget = MAX_PATCHES_BYTES
    blocks = _blocks(command)
    try:
        for index, one in enumerate(changed):
            count = counts[index] if index < len(counts) else _Counts(0, 0, False)
            pieces = [await anext(blocks, None) for _ in range(one.blocks)]
            state, patch = _judge(pieces, count, budget)
            budget -= len(patch.encode())
            files.append(
                FileDiff(
                    path=_line(one.path),
                    old_path=_line(one.old_path) if one.old_path else None,
                    status=one.status,
                    state=state,
                    additions=count.additions,
                    deletions=count.deletions,
                    patch=patch,
                )
            )
    finally:
        await blocks.aclose()
    return files


def _judge(
    pieces: list[bytes | None], count: _Counts, budget: int
) -> tuple[Literal["renderable", "metadata_only", "too_large", "binary"], str]:
    if count.binary:
        return "binary", ""
    if None in pieces or sum(len(piece or b"") for piece in pieces) > MAX_PATCH_BYTES:
        return "too_large", ""
    text = b"".join(piece for piece in pieces if piece).decode("utf-8", "replace").replace("\0", "\ufffd")
    if "\n@@ " not in text:
        return "metadata_only", ""
    if len(text.encode()) > min(budget, MAX_PATCH_BYTES):
        return "too_large", ""
    return "renderable", text


async def _blocks(command: GitCommand) -> AsyncGenerator[bytes, None]:
    """The patch of each file in turn; one that is too large is cut one byte over the bound. No line of a patch's text begins with ``diff``."""
    block = bytearray()
    pending = b"\n"  # so that the first header is found like the others
    first = True

    def keep(data: bytes) -> None:
        room = MAX_PATCH_BYTES + 1 - len(block)
        if room > 0:
            block.extend(data[:room])

    scanned = 0
    async with aclosing(_output(command, MAX_SCAN_BYTES)) as pieces:
        async for piece in pieces:
            scanned += len(piece)
            pending += piece
            while (at := pending.find(_NEXT)) >= 0:
                keep(pending[: at + 1])
                if not first:
                    yield bytes(block)
                first = False
                block.clear()
                keep(_NEXT[1:])
                pending = pending[at + len(_NEXT) :]
            cut = max(0, len(pending) - len(_NEXT))  # a header may be split between two pieces
            keep(pending[:cut])
            pending = pending[cut:]
    if first or scanned >= MAX_SCAN_BYTES:  # the last one is not whole
        return
    keep(pending)
    yield bytes(block)


def _line(path: str) -> str:
    return path if len(path) <= 2_000 else path[:1_999] + "…"
