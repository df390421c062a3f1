"""The difference between a repository's work tree and the commit it began from, and the same for a pull request.

Bounds: 1,000 files, 512 KiB a patch, 1 MiB of patches together; what is over them is listed without its patch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Line, Message

MAX_FILES = 1_000
MAX_PATCH_BYTES = 512 * 1024
MAX_PATCHES_BYTES = 1024 * 1024


class FileDiff(Message):
    path: Line
    old_path: Line | None = None
    status: Literal["added", "modified", "deleted", "renamed", "type_changed", "unmerged", "submodule"]
    state: Literal["renderable", "metadata_only", "too_large", "binary"]
    additions: int = 0
    deletions: int = 0
    patch: str = Field(default="", max_length=MAX_PATCH_BYTES)
    """Unified diff of this file, with its header lines."""


class RepositoryDiff(Message):
    directory: Line
    base_sha: str
    head_sha: str | None
    files: list[FileDiff] = Field(max_length=MAX_FILES)
    more_files: int = 0
    """How many are left out."""
    additions: int = 0
    deletions: int = 0
