"""Signing in and out, members, API tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from openinspect import __version__
from openinspect.identity import credentials, people
from openinspect.identity.credentials import Principal
from openinspect.identity.people import User
from openinspect.identity.permissions import Role, outranks, permissions_of
from openinspect.models.availability import model_availability
from openinspect.models.catalogue import find
from openinspect.problems import Forbidden

from .access import COOKIE, ThePrincipal, TheServices, require, set_cookie
from .models import (
    CreatedToken,
    Me,
    NewToken,
    NewUser,
    ServerInfo,
    SignIn,
    SignInLink,
    TokenView,
    UserChange,
    UserView,
)
from .services import Services

router = APIRouter(prefix="/api")


def _me(user: User, permissions: frozenset[str], services: Services) -> Me:
    settings = services.settings
    return Me(
        user=UserView.model_validate(user),
        permissions=sorted(permissions),
        server=ServerInfo(
            version=__version__,
            scripted_model=model_availability(settings, find(settings.default_model)).scripted,
            public_url=settings.base_url,
            default_model=settings.default_model,
            max_unfinished_prompts=settings.max_unfinished_prompts,
        ),
    )


@router.post("/signin")
async def sign_in(body: SignIn, request: Request, response: Response, services: TheServices) -> Me:
    """Use a sign-in link up: the part of its address behind ``#token=``."""
    async with services.engine.begin() as connection:
        secret, user = await credentials.sign_in(connection, body.token)
    set_cookie(response, secret, request, services)
    return _me(user, permissions_of(user.role), services)


@router.post("/signout", status_code=204)
async def sign_out(principal: ThePrincipal, response: Response, services: TheServices) -> None:
    if principal.by_cookie:
        async with services.engine.begin() as connection:
            await credentials.sign_out(connection, principal.credential_id)
    response.delete_cookie(COOKIE, path="/")


@router.get("/me")
async def me(principal: ThePrincipal, services: TheServices) -> Me:
    return _me(principal.user, principal.permissions, services)


# ── members ───────────────────────────────────────────────────────────────────────────────────────
Reader = Annotated[Principal, Depends(require("users.read"))]
Manager = Annotated[Principal, Depends(require("users.manage"))]


def _has_all_of(principal: Principal, *roles: Role) -> None:
    """Raises ``Forbidden`` for a credential that is narrower than a role which it is to give, or whose holder it is to change: it would act beyond itself by it."""
    for role in roles:
        missing = sorted(permissions_of(role) - principal.permissions)
        if missing:
            raise Forbidden(
                "scope_beyond",
                f"The role {role} has the permission {missing[0]}, which you do not have here.",
                "Sign in, or use a token with all scopes (*).",
            )


@router.get("/users")
async def list_users(_: Reader, services: TheServices) -> list[UserView]:
    async with services.reader.connect() as connection:
        return [UserView.model_validate(user) for user in await people.list_all(connection)]


@router.post("/users", status_code=201)
async def add_user(body: NewUser, principal: Manager, services: TheServices) -> UserView:
    if not outranks(principal.user.role, body.role):
        raise Forbidden("outranked", f"An {principal.user.role} can't add an {body.role}.", "Ask an owner.")
    _has_all_of(principal, body.role)
    async with services.engine.begin() as connection:
        return UserView.model_validate(await people.add(connection, body.name, body.email, body.role))


@router.patch("/users/{user_id}")
async def change_user(user_id: str, body: UserChange, principal: Manager, services: TheServices) -> UserView:
    async with services.engine.begin() as connection:
        before = await people.get(connection, user_id)
        user = await people.change(connection, principal.user, user_id, **body.model_dump(exclude_none=True))
        _has_all_of(principal, before.role, user.role)  # else nothing is committed
    return UserView.model_validate(user)


@router.post("/users/{user_id}/signin-link", status_code=201)
async def make_signin_link(user_id: str, principal: Manager, services: TheServices) -> SignInLink:
    """A link by which this person can sign in, once and within 15 minutes."""
    async with services.engine.begin() as connection:
        user = await people.get(connection, user_id)
        if user.id != principal.user.id and not outranks(principal.user.role, user.role):
            raise Forbidden(
                "outranked", f"An {principal.user.role} can't sign in as an {user.role}.", "Ask an owner."
            )
        _has_all_of(principal, user.role)
        if user.disabled_at is not None:
            raise Forbidden("user_disabled", "This person's access is disabled.", "Enable it first.")
        secret, expires = await credentials.make_signin_link(connection, user.id)
    return SignInLink(url=f"{services.settings.base_url}/signin#token={secret}", expires_at=expires)


# ── API tokens ────────────────────────────────────────────────────────────────────────────────────
TokenManager = Annotated[Principal, Depends(require("tokens.manage"))]


@router.get("/tokens")
async def list_tokens(principal: TokenManager, services: TheServices) -> list[TokenView]:
    async with services.reader.connect() as connection:
        return [
            TokenView.model_validate(dict(row))
            for row in await credentials.list_tokens(connection, principal.user.id)
        ]


@router.post("/tokens", status_code=201)
async def make_token(body: NewToken, principal: TokenManager, services: TheServices) -> CreatedToken:
    """The token is in this answer alone."""
    wide = permissions_of(principal.user.role) <= principal.permissions
    beyond = [
        scope for scope in body.scopes if scope not in principal.permissions and not (scope == "*" and wide)
    ]
    if beyond and not wide:
        raise Forbidden(
            "scope_beyond",
            f"You may not give the permission {beyond[0]}: you do not have it here.",
            "Make the token with a credential that has it.",
        )
    async with services.engine.begin() as connection:
        secret, row = await credentials.make_token(
            connection, principal.user.id, body.name, body.scopes, body.expires_in_days
        )
    return CreatedToken.model_validate({**row, "token": secret})


@router.delete("/tokens/{token_id}", status_code=204)
async def revoke_token(token_id: str, principal: TokenManager, services: TheServices) -> None:
    async with services.engine.begin() as connection:
        await credentials.revoke_token(connection, principal.user.id, token_id)
