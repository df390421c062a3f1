"""Repositories, their branches and pull requests, and the models that can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import select

from openinspect.db.tables import pull_requests
from openinspect.forges import contract
from openinspect.identity.credentials import Principal
from openinspect.models.availability import available_models
from openinspect.problems import Invalid, NotFound
from openinspect.protocol.diffs import RepositoryDiff
from openinspect.sessions.pull_requests import record_state

from .access import TheServices, person, require
from .models import BranchView, Merge, ModelView, NewRepository, PullRequestView, RepositoryView
from .services import Services

router = APIRouter(prefix="/api")

Reader = Annotated[Principal, Depends(require("repositories.read"))]
Manager = Annotated[Principal, Depends(require("repositories.manage"))]
Merger = Annotated[Principal, Depends(require("pull_requests.merge"))]


@router.get("/models")
async def list_models(
    _: Annotated[Principal, Depends(require("models.read"))], services: TheServices
) -> list[ModelView]:
    """Every model of the catalogue: whether it can be used now, and if not, why and what to do."""
    return [
        ModelView(
            id=model.id,
            provider=model.provider,
            name=model.name,
            efforts=list(model.efforts),
            default_effort=model.default_effort,
            available=state.available,
            scripted=state.scripted,
            reason=state.reason,
            remedy=state.remedy,
        )
        for model, state in available_models(services.settings)
    ]


# ── repositories ──────────────────────────────────────────────────────────────────────────────────
@router.get("/repositories")
async def list_repositories(_: Reader, services: TheServices) -> list[RepositoryView]:
    return [RepositoryView.model_validate(one) for one in await services.forge.list_repositories()]


@router.post("/repositories", status_code=201)
async def add_repository(body: NewRepository, principal: Manager, services: TheServices) -> RepositoryView:
    """Register a repository of the server's machine, or clone one. One that is there already is given back."""
    if (body.path is None) == (body.url is None):
        raise Invalid(
            "path_or_url",
            "Exactly one of `path` and `url` is needed.",
            "Give the folder of a repository, or an address to clone.",
        )
    if body.path is not None:
        repository = await services.forge.add_folder(
            Path(body.path), name=body.name, created_by=principal.user.id
        )
    else:
        repository = await services.forge.add_address(
            body.url or "", name=body.name, created_by=principal.user.id
        )
    return RepositoryView.model_validate(repository)


@router.get("/repositories/{repository_id}")
async def get_repository(repository_id: str, _: Reader, services: TheServices) -> RepositoryView:
    return RepositoryView.model_validate(await services.forge.repository(repository_id))


@router.delete("/repositories/{repository_id}", status_code=204)
async def remove_repository(repository_id: str, _: Manager, services: TheServices) -> None:
    """Forget a repository. One that was registered by its folder stays where it is; a clone is deleted."""
    await services.forge.remove(repository_id)


@router.get("/repositories/{repository_id}/branches")
async def list_branches(repository_id: str, _: Reader, services: TheServices) -> list[BranchView]:
    repository = await services.forge.repository(repository_id)
    return [
        BranchView(name=one.name, sha=one.sha, is_default=one.name == repository.default_branch)
        for one in await services.forge.list_branches(repository.id)
    ]


@router.get("/repositories/{repository_id}/pull-requests")
async def list_pull_requests(repository_id: str, _: Reader, services: TheServices) -> list[PullRequestView]:
    repository = await services.forge.repository(repository_id)
    return [_view(one) for one in await services.forge.list_pull_requests(repository_id=repository.id)]


# ── pull requests ─────────────────────────────────────────────────────────────────────────────────
def _view(one: contract.PullRequest, mergeable: contract.Mergeability | None = None) -> PullRequestView:
    return PullRequestView.model_validate(
        {
            **one.model_dump(),
            "author_name": one.author.name,
            "mergeable": mergeable.mergeable if mergeable else None,
            "mergeable_reason": mergeable.reason if mergeable else "",
        }
    )


async def _place(services: Services, pull_request_id: str) -> tuple[str, int]:
    async with services.reader.connect() as connection:
        found = await connection.execute(
            select(pull_requests.c.repository_id, pull_requests.c.number).where(
                pull_requests.c.id == pull_request_id
            )
        )
        row = found.one_or_none()
    if row is None:
        raise NotFound(
            "pull_request_not_found", "There is no such pull request.", "See the repository's list."
        )
    return row.repository_id, row.number


@router.get("/pull-requests/{pull_request_id}")
async def get_pull_request(pull_request_id: str, _: Reader, services: TheServices) -> PullRequestView:
    repository_id, number = await _place(services, pull_request_id)
    one = await services.forge.pull_request(repository_id, number)
    if one.state == "merged":
        await record_state(services.journal, one)  # somebody may have merged it with git itself
    return _view(
        one, await services.forge.mergeability(repository_id, number) if one.state == "open" else None
    )


@router.get("/pull-requests/{pull_request_id}/diff")
async def get_pull_request_diff(pull_request_id: str, _: Reader, services: TheServices) -> RepositoryDiff:
    return await services.forge.pull_request_diff(*await _place(services, pull_request_id))


@router.post("/pull-requests/{pull_request_id}/merge")
async def merge_pull_request(
    pull_request_id: str, body: Merge, principal: Merger, services: TheServices
) -> PullRequestView:
    repository_id, number = await _place(services, pull_request_id)
    by = contract.Person(name=principal.user.name, email=principal.user.email, id=principal.user.id)
    one = await services.forge.merge(
        repository_id, number, method=body.method, by=by, expected_head=body.expected_head
    )
    await record_state(services.journal, one)
    return _view(one)


@router.post("/pull-requests/{pull_request_id}/close")
async def close_pull_request(
    pull_request_id: str, principal: Merger, services: TheServices
) -> PullRequestView:
    one = await services.forge.close(*await _place(services, pull_request_id))
    await record_state(services.journal, one, person(principal))
    return _view(one)


@router.post("/pull-requests/{pull_request_id}/reopen")
async def reopen_pull_request(
    pull_request_id: str, principal: Merger, services: TheServices
) -> PullRequestView:
    one = await services.forge.reopen(*await _place(services, pull_request_id))
    await record_state(services.journal, one, person(principal))
    return _view(one)
