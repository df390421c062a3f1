"""How errors are answered: always as ``ErrorAnswer``, with what happened, why, and what to do; never with a traceback.

What nobody expected is logged with the end of its traceback, and the same (the type and the place) once in ``AGAIN_SECONDS``, with how often it
came: whoever can make the server fail can't fill its disk by it.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from openinspect.db.engine import is_lost
from openinspect.db.errors import DatabaseError
from openinspect.forges import errors as forge_errors
from openinspect.problems import ProblemError

from .models import ErrorAnswer, Problem

log = structlog.get_logger()

AGAIN_SECONDS = 60.0
_MOST_KINDS = 256
_told: dict[tuple[str, str, int], list[float]] = {}
"""When a fault was logged last, and how often it came since, by its type and its place."""

_FORGE_STATUS = {
    "repository_not_found": 404,
    "branch_not_found": 404,
    "pull_request_not_found": 404,
    "repository_unusable": 422,
    "clone_refused": 422,
    "clone_failed": 502,
    "invalid_request": 422,
}
"""Of the rest: 503 when it may succeed later, else 409."""


def answer(status: int, code: str, message: str, remedy: str = "") -> JSONResponse:
    headers = {"retry-after": "2"} if status == 503 else None
    return JSONResponse(
        ErrorAnswer(error=Problem(code=code, message=message, remedy=remedy)).model_dump(),
        status_code=status,
        headers=headers,
    )


async def _problem(_request: Request, error: ProblemError) -> JSONResponse:
    return answer(error.status, error.code, error.message, error.remedy)


async def _forge(_request: Request, error: forge_errors.ForgeError) -> JSONResponse:
    return answer(
        _FORGE_STATUS.get(error.code, 503 if error.retryable else 409),
        error.code,
        error.reason if error.reason.endswith(".") else f"{error.reason}.",
        error.remedy,
    )


_FAULTS = {
    "missing": "{name} is missing",
    "string_too_long": "{name} is longer than {max_length:,} characters",
    "string_too_short": "{name} is shorter than {min_length:,} characters",
    "too_long": "{name} has more than {max_length:,} entries",
    "greater_than": "{name} must be more than {gt}",
    "greater_than_equal": "{name} must be at least {ge}",
    "less_than": "{name} must be less than {lt}",
    "less_than_equal": "{name} must be at most {le}",
    "string_pattern_mismatch": "{name} has characters that are not allowed there",
    "extra_forbidden": "{name} is not known here",
    "int_parsing": "{name} must be a whole number",
    "string_type": "{name} must be a text",
    "json_invalid": "the body is not JSON",
}
"""In a person's words; of the others pydantic's own."""


def _fault(fault: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
    words = _FAULTS.get(fault["type"], "{name}: " + str(fault["msg"]).replace("{", "{{").replace("}", "}}"))
    return words.format(**{"name": f"“{place}”", **fault.get("ctx", {})})


async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    faults = error.errors()
    told = "; ".join(_fault(fault) for fault in faults[:3])
    shorten = all(fault["type"] == "string_too_long" for fault in faults)
    return answer(
        422,
        "invalid_request",
        f"The request can't be used: {told}.",
        "Shorten it; what is long can be put into a file of the repository."
        if shorten
        else "See /api/docs for what this address takes.",
    )


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    if error.status_code == 404:
        return answer(
            404,
            "not_found",
            f"There is nothing at {request.url.path[:100]}.",
            "See /api/docs for what there is.",
        )
    if error.status_code == 400 and request.headers.get("content-type", "").lower().startswith("multipart/"):
        return answer(
            400,
            "body_unreadable",
            "The upload could not be read.",
            "Send the file as multipart/form-data, in the field “file”, with a name of at most 200 characters.",
        )
    if error.status_code == 400:
        return answer(400, "body_unreadable", "The request's body could not be read.", "Send JSON in UTF-8.")
    if error.status_code == 405:
        return answer(
            405,
            "method_not_allowed",
            f"{request.method} is not for this address.",
            "See /api/docs for what there is.",
        )
    return answer(error.status_code, "http_error", f"{error.detail}.", "See /api/docs for what there is.")


_AWAY = (
    "database_unavailable",
    "The database does not answer at the moment.",
    "Try again in a few seconds. If it goes on, look at the server's log.",
)


async def _database(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, SQLAlchemyError) and not is_lost(error):
        return await _unexpected(_request, error)
    return answer(503, *_AWAY)


def log_unexpected(path: str, method: str, error: Exception) -> None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    kind = (
        type(error).__name__,
        *((place.tb_frame.f_code.co_filename, place.tb_lineno) if place else ("", 0)),
    )
    now = time.monotonic()
    seen = _told.get(kind)
    if seen is not None and now - seen[0] < AGAIN_SECONDS:
        seen[1] += 1
        return
    if len(_told) >= _MOST_KINDS:
        _told.clear()
    _told[kind] = [now, 0]
    lines = "".join(traceback.format_exception(error, limit=-10)).splitlines()[-20:]
    log.error(
        "api.unexpected",
        path=path[:200],
        method=method,
        times=1 + int(seen[1] if seen else 0),
        exception="\n".join(line[:500] for line in lines),
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log_unexpected(request.url.path, request.method, error)
    return unexpected()


def unexpected() -> JSONResponse:
    return answer(
        500,
        "internal_error",
        "Something went wrong in the server; its log has the details.",
        "Try again. If it happens again, report it.",
    )


def install(app: FastAPI) -> None:
    app.add_exception_handler(ProblemError, _problem)  # type: ignore[arg-type]
    app.add_exception_handler(forge_errors.ForgeError, _forge)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(DatabaseError, _database)
    app.add_exception_handler(SQLAlchemyError, _database)
