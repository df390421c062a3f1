"""The face of the local code host: ``forges.contract.Forge``, and how repositories come to be known.

A repository is registered by its folder (it stays the person's own; results appear in it as branches) or cloned from an address into
``<data>/repositories/<id>.git``. Both are idempotent: the same folder or address gives the repository that is known already.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from ...db.engine import transaction
from ...protocol.ids import new_id
from ..contract import MAX_BRANCHES, Branch, LocalGitBackend, Repository
from ..errors import (
    ForgeError,
    InvalidRequest,
    RepositoryExists,
    RepositoryInUse,
    RepositoryNotFound,
    RepositoryUnusable,
)
from . import refs, rows
from .addresses import clone_address, is_address, repository_name
from .cloning import CloneLimits, OnProgress, clone, sweep
from .git import Git
from .place import locate
from .pull_requests import PullRequests

log = structlog.get_logger(__name__)


class LocalForge(PullRequests):
    """``data_dir`` is the server's data folder. Cheap to make; several may stand on one database."""

    name = rows.FORGE

    def __init__(
        self, engine: AsyncEngine, data_dir: Path, *, clone_limits: CloneLimits | None = None
    ) -> None:
        super().__init__(engine, data_dir / "repository-locks")
        self.repositories_dir = data_dir / "repositories"
        self._clone_limits = clone_limits or CloneLimits()
        self._cloning: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        """Make the folder, and remove what clones that never ended have left."""
        await asyncio.to_thread(self.repositories_dir.mkdir, parents=True, exist_ok=True)
        age = self._clone_limits.seconds + 60
        await asyncio.to_thread(sweep, self.repositories_dir, older_than_seconds=age)

    async def add(
        self,
        source: str,
        *,
        name: str | None = None,
        created_by: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Repository:
        """Register a folder or clone an address, whichever ``source`` is."""
        if is_address(source):
            return await self.add_address(source, name=name, created_by=created_by, on_progress=on_progress)
        return await self.add_folder(Path(source), name=name, created_by=created_by)

    async def add_folder(
        self, path: Path, *, name: str | None = None, created_by: str | None = None
    ) -> Repository:
        """Register the repository at ``path``, which must be absolute.

        Raises ``RepositoryNotFound``, ``RepositoryUnusable``, ``RepositoryExists`` (the name is taken).
        """
        if not path.is_absolute():
            raise InvalidRequest(f"{path} is not an absolute path", "Give the whole path, beginning with /.")
        place = await asyncio.to_thread(locate, path)
        location = str(place.work_tree or place.git_dir)
        async with transaction(self.engine) as connection:
            known = await rows.find_repository(connection, location)
        if known is not None and known.location == location:
            return known
        git = Git(place)
        default = await refs.choose_default_branch(git)
        if default is None and isinstance(unusable := await refs.no_branches(git), RepositoryUnusable):
            raise unusable
        wish = Path(location).name.removesuffix(".git")
        added = await self._insert(new_id("repo"), name, wish, location, None, default, created_by)
        if place.work_tree is not None and place.git_dir != place.work_tree / ".git":
            # what sessions get is not what the path says: say whose folder it really is
            log.info("repository_lies_elsewhere", repository=added.name, git_folder=str(place.git_dir))
        return added

    async def add_address(
        self,
        address: str,
        *,
        name: str | None = None,
        created_by: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Repository:
        """Clone it, however long that takes within the limits. Raises ``CloneRefused``, ``CloneFailed``, ``RepositoryExists``."""
        wanted = clone_address(address)
        async with self._one_at_a_time(wanted.url):
            async with transaction(self.engine) as connection:
                known = await rows.find_repository(connection, wanted.url)
                if known is not None and known.origin_url == wanted.url:
                    return known
                if name is not None:
                    _check_name(name)
                    if await rows.find_repository(connection, name):
                        raise _taken(name)
            await self.start()
            repository_id = new_id("repo")
            target = self.repositories_dir / f"{repository_id}.git"
            await clone(wanted, target, self._clone_limits, on_progress)
            default = await refs.choose_default_branch(Git(await asyncio.to_thread(locate, target)))
            return await self._insert(
                repository_id, name, wanted.name, str(target), wanted.url, default, created_by
            )

    async def remove(self, repository_id: str) -> None:
        """Forget it with its pull requests. A clone of ours is deleted; a person's folder stays as it is, without the refs that we kept there.

        Raises ``RepositoryNotFound``, ``RepositoryInUse``.
        """
        repository = await self.known(repository_id)
        try:
            async with transaction(self.engine) as connection:
                await rows.delete_repository(connection, repository_id)
        except IntegrityError as error:
            raise RepositoryInUse(
                f"Sessions work on {repository.name}", "Delete those sessions first, then remove it."
            ) from error
        self.lock_file(repository_id).unlink(missing_ok=True)
        location = Path(repository.location)
        if location.parent == self.repositories_dir:
            await asyncio.to_thread(shutil.rmtree, location, ignore_errors=True)
            return
        try:
            await refs.delete_own_refs(Git(await asyncio.to_thread(locate, location)))
        except ForgeError as error:
            # the folder is gone or locked: it is forgotten all the same, and the refs do no harm
            log.warning("repository_refs_left", repository=repository.name, reason=error.reason)

    @asynccontextmanager
    async def _one_at_a_time(self, url: str) -> AsyncIterator[None]:
        lock = self._cloning.setdefault(url, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._cloning.pop(url, None)

    async def _insert(
        self,
        repository_id: str,
        name: str | None,
        wish: str,
        location: str,
        origin: str | None,
        default: str | None,
        created_by: str | None,
    ) -> Repository:
        """The row, under ``name`` or under the first free one like ``wish``."""
        if name is not None:
            _check_name(name)
        for _ in range(20):
            chosen = name
            try:
                async with transaction(self.engine) as connection:
                    if chosen is None:
                        used = await rows.names_like(connection, repository_name(wish))
                        chosen = _free(repository_name(wish), used)
                    return await rows.insert_repository(
                        connection,
                        repository_id=repository_id,
                        name=chosen,
                        location=location,
                        origin_url=origin,
                        default_branch=default,
                        created_by=created_by,
                    )
            except IntegrityError as error:
                async with transaction(self.engine) as connection:
                    known = await rows.find_repository(connection, location)
                if known is not None and known.location == location:
                    return known
                if name is not None:
                    raise _taken(name) from error
        raise RepositoryExists(
            f"No free name like {wish!r} was found", "Give the repository a name of your own."
        )

    async def repository(self, reference: str) -> Repository:
        async with transaction(self.engine) as connection:
            found = await rows.find_repository(connection, reference)
            if found is None and is_address(reference):
                found = await rows.find_repository(connection, clone_address(reference).url)
            if found is None and reference.startswith("/"):
                path = await asyncio.to_thread(os.path.realpath, reference)
                found = await rows.find_repository(connection, path)
        if found is None:
            raise RepositoryNotFound(
                f"The repository {reference[:200]!r} is not known",
                "Add it: `openinspect repos add PATH|URL`.",
            )
        return found

    async def list_repositories(self) -> list[Repository]:
        async with transaction(self.engine) as connection:
            return await rows.list_repositories(connection)

    async def git_backend(self, repository_id: str) -> LocalGitBackend:
        return LocalGitBackend(path=Path((await self.known(repository_id)).location))

    async def list_branches(self, repository_id: str, *, limit: int = MAX_BRANCHES) -> list[Branch]:
        git, _ = await self.git(repository_id)
        return await refs.list_branches(git, max(1, min(limit, MAX_BRANCHES)))

    async def branch_head(self, repository_id: str, branch: str) -> str:
        git, _ = await self.git(repository_id)
        return await refs.branch_head(git, branch)

    async def default_branch(self, repository_id: str) -> str:
        git, repository = await self.git(repository_id)
        stored = repository.default_branch
        if stored is not None and await refs.heads(git, [refs.branch_ref(stored)]):
            return stored
        chosen = await refs.choose_default_branch(git)
        if chosen != stored:
            async with transaction(self.engine) as connection:
                await rows.set_default_branch(connection, repository.id, chosen)
        if chosen is None:
            raise await refs.no_branches(git)
        return chosen


def _check_name(name: str) -> None:
    if repository_name(name) != name:
        raise InvalidRequest(
            f"{name[:120]!r} can't be a repository's name",
            f"Use letters, digits and . _ - such as {repository_name(name)!r}.",
        )


def _taken(name: str) -> RepositoryExists:
    return RepositoryExists(f"There is a repository named {name!r} already", "Choose another name.")


def _free(wish: str, used: set[str]) -> str:
    if wish.lower() not in used:
        return wish
    number = 2
    while f"{wish}-{number}".lower() in used:
        number += 1
    return f"{wish}-{number}"
