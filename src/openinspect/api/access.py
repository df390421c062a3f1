"""Who is asking, and whether they may. Every route but signing in names the permission that it needs (a test walks through all of them).

Credentials: the cookie of a signed-in browser, or ``Authorization: Bearer oi_pat_…``. A request that changes something and comes with the cookie
must carry the header ``X-OpenInspect``, which no other site can make a browser send. A request that puts the end of a cookie session off has the
cookie sent again (``request.state.set_cookie``, which ``app`` adds to whatever the route answers).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Response

from openinspect.identity import credentials
from openinspect.identity.credentials import Principal
from openinspect.identity.permissions import PERMISSIONS
from openinspect.problems import Forbidden, SignInNeeded
from openinspect.protocol.events import Person

from .services import Services

COOKIE = "openinspect_session"
HEADER = "x-openinspect"
_SAFE = ("GET", "HEAD", "OPTIONS")


def get_services(request: Request) -> Services:
    return request.app.state.services


TheServices = Annotated[Services, Depends(get_services)]


async def get_principal(request: Request, services: TheServices) -> Principal:
    """Raises ``SignInNeeded``, and ``Forbidden`` for a request that another site may have made."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer" and token:
            async with services.reader.connect() as connection:
                principal = await credentials.by_token(connection, token.strip())
            if principal is not None:
                return principal
        raise SignInNeeded(
            "token_invalid",
            "This API token is unknown, expired or revoked.",
            "Make a new one in the settings, or with `openinspect tokens create`.",
        )
    cookie = request.cookies.get(COOKIE)
    if cookie:
        async with services.reader.connect() as connection:
            principal = await credentials.by_cookie(connection, cookie)
        if principal is not None:
            if principal.renewed:
                renewed = Response()
                set_cookie(renewed, cookie, request, services)
                request.state.set_cookie = renewed.headers["set-cookie"]
            if request.method not in _SAFE and HEADER not in request.headers:
                raise Forbidden(
                    "header_missing",
                    "The header X-OpenInspect is missing.",
                    "Send `X-OpenInspect: 1` with requests that change something.",
                )
            return principal
    raise SignInNeeded(
        "not_signed_in",
        "You are not signed in.",
        "Open a sign-in link: `openinspect signin` on the server's machine prints one.",
    )


def set_cookie(response: Response, secret: str, request: Request, services: Services) -> None:
    """Have the browser keep a cookie session's secret for as long as the session lasts when it is not used again."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(credentials.WEB_SESSION_LIFETIME.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https" or services.settings.base_url.startswith("https:"),
        path="/",
    )


ThePrincipal = Annotated[Principal, Depends(get_principal)]


def require(permission: str) -> Callable[..., Awaitable[Principal]]:
    """A dependency that gives the principal, if it has the permission."""
    if permission not in PERMISSIONS:
        raise ValueError(f"there is no permission {permission}")

    async def check(principal: ThePrincipal) -> Principal:
        if permission not in principal.permissions:
            raise Forbidden(
                "not_permitted",
                f"This needs the permission {permission}; your role is {principal.user.role}.",
                "Ask an admin, or use a token with this scope.",
            )
        return principal

    check.permission = permission  # type: ignore[attr-defined]
    return check


def person(principal: Principal) -> Person:
    return Person(id=principal.user.id, name=principal.user.name)
