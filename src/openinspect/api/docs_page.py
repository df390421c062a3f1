"""``/api/docs``: the API's own description as a page, from files of this server alone, and without inline scripts."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from openinspect.problems import NotFound

router = APIRouter(prefix="/api/docs", include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Open-Inspect API</title>
<link rel="icon" href="/favicon.svg">
<link rel="stylesheet" href="/api/docs/swagger-ui.css">
<body>
<div id="docs"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script>
"""
# requests from the page are the person's own, as those of the web app are
_START = """SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "none",
  displayRequestDuration: true,
  requestInterceptor: (request) => { request.headers["X-OpenInspect"] = "1"; return request; },
});
"""
_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


@router.get("")
async def page() -> Response:
    return Response(_PAGE, media_type="text/html", headers={"cache-control": "no-cache"})


@router.get("/start.js")
async def start() -> Response:
    return Response(_START, media_type="text/javascript", headers={"cache-control": "no-cache"})


@router.get("/{name}")
def file(name: str) -> Response:
    if name not in _FILES:
        raise NotFound("not_found", f"There is nothing at /api/docs/{name[:100]}.", "See /api/docs.")
    data = resources.files("fastapi_offline").joinpath("static", name).read_bytes()
    return Response(data, media_type=_FILES[name], headers={"cache-control": "public, max-age=86400"})
