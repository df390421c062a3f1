"""Big bytes, by key: the pictures of prompts. Kept in a folder, by way of obstore.

Keys are ``/``-separated and made by us, never taken from a person. ``get`` of a key that is not there raises ``NotFound``; ``delete`` may be
repeated. Everything that belongs to a session lies under ``sessions/<id>/``, so that it goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore

from openinspect.problems import NotFound, Unavailable


class BlobStore:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._store = LocalStore(folder)

    async def put(self, key: str, content: bytes) -> None:
        """Raises ``Unavailable`` when it can't be written (a full disk, say)."""
        try:
            await obstore.put_async(self._store, key, content)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise Unavailable(
                "blob_not_written",
                "The file could not be stored.",
                "Make room on the disk of the server's data folder, then try again.",
            ) from error

    async def get(self, key: str) -> bytes:
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except (FileNotFoundError, NotFoundError) as error:
            raise NotFound("blob_not_found", "This file is no longer there.", "Upload it again.") from error

    async def delete_prefix(self, prefix: str) -> int:
        """Delete every blob below ``prefix``, which no other begins with, and their folder; gives how many there were."""
        gone = 0
        async for page in obstore.list(self._store, prefix=prefix, chunk_size=500):
            paths = [entry["path"] for entry in page]
            await obstore.delete_async(self._store, paths)
            gone += len(paths)
        # with what writing left that was cut off
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, self._folder / prefix)
        return gone

    async def delete(self, key: str) -> None:
        try:
            await obstore.delete_async(self._store, key)
        except (FileNotFoundError, NotFoundError):
            return
