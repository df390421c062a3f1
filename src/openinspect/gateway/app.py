"""The one door: everything that a sandbox can reach, as one ASGI app on one socket.

    /bridge                     the WebSocket of ``protocol.frames``
    /bridge/attachments/<id>    a picture of a prompt of the session
    /bridge/diffs/<directory>   PUT: the work tree's difference to its base (``protocol.diffs.RepositoryDiff``)
    /git/<directory>/…          git's smart HTTP, for the session's repositories
    /llm/<provider>/…           the providers' own APIs, generation only
    /tools/mcp                  the agent's tools

Every request is authorised by the sandbox's token (``grants``); nothing else that it says decides about identity, cost, rights or refs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from openinspect.blobs.store import BlobStore
from openinspect.problems import Invalid, ProblemError, TooLarge
from openinspect.protocol.diffs import RepositoryDiff
from openinspect.sessions import attachments, diffs
from openinspect.sessions.log import Journal

from .bridge import Bridge
from .grants import SandboxGrant, authorise_runtime, bearer

MAX_DIFF_BYTES = 4 * 1024 * 1024


def _answer(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ProblemError)
    return JSONResponse(
        {"error": {"code": problem.code, "message": problem.message, "remedy": problem.remedy}},
        status_code=problem.status,
        # a stranger's body is not waited for
        headers={"connection": "close"} if problem.status == 401 else None,
    )


def _gone(_request: Request, _left: Exception) -> Response:
    """Nobody reads this; without it every sender that leaves in a body would fill the log."""
    return Response(status_code=400)


def create_app(journal: Journal, bridge: Bridge, blobs: BlobStore, mounts: Sequence[BaseRoute]) -> Starlette:
    """``mounts`` are the git, llm and tools doors, each with its own authorisation by the same token."""

    async def grant(request: Request) -> SandboxGrant:
        return await authorise_runtime(journal.engine, bearer(request.headers))

    async def attachment(request: Request) -> Response:
        who = await grant(request)
        async with journal.engine.connect() as connection:
            row = await attachments.find(connection, who.session_id, request.path_params["attachment_id"])
        return Response(await blobs.get(row["blob_key"]), media_type=row["media_type"])

    async def diff(request: Request) -> Response:
        who = await grant(request)
        told = await _diff(request)
        async with journal.engine.begin() as connection:
            await diffs.keep(connection, who.session_id, request.path_params["directory"], told)
        return Response(status_code=204)

    async def health(_request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    return Starlette(
        routes=[
            Route("/health", health),
            WebSocketRoute("/bridge", bridge.serve),
            Route("/bridge/attachments/{attachment_id}", attachment),
            Route("/bridge/diffs/{directory}", diff, methods=["PUT"]),
            *mounts,
        ],
        exception_handlers={ProblemError: _answer, ClientDisconnect: _gone},
    )


async def _diff(request: Request) -> RepositoryDiff:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_DIFF_BYTES:
            raise TooLarge("diff_too_large", "The difference is larger than 4 MiB.")
        chunks.append(chunk)
    try:
        # what the database can't hold is replaced here, before it is read
        return RepositoryDiff.model_validate_json(b"".join(chunks).replace(rb"\u0000", rb"\ufffd"))
    except ValidationError as error:
        raise Invalid(
            "diff_unreadable", f"The difference could not be read ({error.error_count()} faults)."
        ) from None
