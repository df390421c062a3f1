"""The web server's ASGI app: the API, and the page that uses it.

Every answer carries headers that keep other sites out: the page loads nothing from elsewhere, runs no inline script and may not be framed.
Bodies are bounded: 12 MiB for an attachment, 2 MiB for everything else.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openinspect import __version__
from openinspect.protocol.stream import from_watcher as from_watcher_adapter
from openinspect.protocol.stream import to_watcher as to_watcher_adapter

from . import answers, code_routes, docs_page, people_routes, session_routes, stream_routes
from .models import ErrorAnswer
from .services import Services

STATIC = Path(__file__).parents[1] / "web" / "static"
MAX_BODY = 2 * 1024 * 1024
MAX_UPLOAD = 12 * 1024 * 1024

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class _Guard:
    """Adds the headers and a renewed cookie, refuses bodies over the bound, whether or not they say how long they are, and those that are not UTF-8 (but
    for files), and answers for what nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
            refusal = answers.answer(
                400, "address_unreadable", "The address holds a character that no name has.", "Correct it."
            )
            await refusal(scope, receive, send)
            return
        limit = MAX_UPLOAD if scope["path"].endswith("/attachments") else MAX_BODY
        state = scope.setdefault("state", {})
        text = None if _is_form(scope) else codecs.getincrementaldecoder("utf-8")()
        taken = 0
        started = False

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > limit:
                    raise _TooLarge
                if text is not None:
                    # the parser of JSON would take halves of surrogate pairs, which no text holds
                    text.decode(message.get("body", b""), final=not message.get("more_body", False))
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers: list[tuple[bytes, bytes]] = [*message.get("headers", []), *_HEADERS]
                cookie = state.get("set_cookie")
                if cookie is not None and all(name != b"set-cookie" for name, _ in headers):
                    headers.append((b"set-cookie", cookie.encode("latin-1")))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, bounded, guarded)
        except _TooLarge:
            if not started:
                answer = answers.answer(
                    413,
                    "body_too_large",
                    f"The request is larger than {limit // 1024**2} MiB.",
                    "Send less at a time.",
                )
                await answer(scope, receive, guarded)
        except Exception as error:
            # here, so that nobody further out logs it at full length; an answer that has begun is broken off by returning
            answers.log_unexpected(scope["path"], scope["method"], error)
            if not started:
                await answers.unexpected()(scope, receive, guarded)


def _is_form(scope: Scope) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"multipart/")
        for name, value in scope["headers"]
    )


class _TooLarge(Exception):
    pass


def create_app(services: Services | None = None) -> FastAPI:
    """The app. Without services it serves to read its OpenAPI from."""
    app = FastAPI(
        title="Open-Inspect",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        description="Background coding agents: a prompt goes in, a pull request comes out.",
        responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}},
        separate_input_output_schemas=False,
    )
    app.state.services = services
    static = STATIC.resolve()  # as the files in it are: the package may be installed by links
    answers.install(app)
    for module in (people_routes, session_routes, code_routes, stream_routes, docs_page):
        app.include_router(module.router)

    @app.get("/healthz", include_in_schema=False)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/api/{rest:path}", include_in_schema=False)
    async def unknown(rest: str) -> Response:
        return answers.answer(
            404, "not_found", f"There is nothing at /api/{rest[:100]}.", "See /api/docs for what there is."
        )

    @app.get("/{rest:path}", include_in_schema=False)
    async def page(rest: str) -> Response:
        try:
            file = (static / rest).resolve()
            known = rest != "" and file.is_relative_to(static) and file.is_file()
        except OSError:  # such as a name that no file can have
            return answers.answer(404, "not_found", "There is nothing at this address.", "Correct it.")
        if known:
            immutable = rest.startswith("assets/")
            return FileResponse(
                file,
                headers={"cache-control": "public, max-age=31536000, immutable" if immutable else "no-cache"},
            )
        index = static / "index.html"
        if rest.startswith("assets/") or not index.is_file():
            return answers.answer(
                404,
                "page_missing",
                "The web app has not been built, or this file is not part of it.",
                "Run `make web`.",
            )
        return FileResponse(index, headers={"cache-control": "no-cache"})

    app.add_middleware(_Guard)
    _with_stream_types(app)
    return app


def _with_stream_types(app: FastAPI) -> None:
    """The stream's messages as schemas of the OpenAPI document, so that clients are generated from one place."""
    original = app.openapi

    def openapi() -> dict[str, object]:
        document = original()
        schemas = document["components"]["schemas"]
        for name, adapter in (("FromWatcher", from_watcher_adapter), ("ToWatcher", to_watcher_adapter)):
            if name not in schemas:
                schema = adapter.json_schema(
                    ref_template="#/components/schemas/{model}", mode="serialization"
                )
                for part, definition in schema.pop("$defs", {}).items():
                    schemas.setdefault(part, definition)
                schemas[name] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]
