"""Nobody gets in without a credential, and every route consults the table of permissions."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from openinspect.api import app
from openinspect.api.app import create_app
from openinspect.identity import credentials, people
from openinspect.identity.permissions import PERMISSIONS, permissions_of
from openinspect.testing.repositories import SampleRepository
from openinspect.testing.running_server import RunningServer, running_server

pytestmark = pytest.mark.anyio

DOCS = {"/api/docs", "/api/docs/start.js", "/api/docs/{name}"}
OPEN = {"/api/signin", "/healthz", "/api/{rest:path}", "/{rest:path}"} | DOCS
SIGNED_IN = {"/api/signout", "/api/me"}


def _routes() -> list[APIRoute]:
    found: list[APIRoute] = []

    def walk(routes) -> None:
        for route in routes:
            if isinstance(route, APIRoute):
                found.append(route)
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes)

    walk(create_app().routes)
    return found


def _permissions(route: APIRoute) -> set[str]:
    asked: set[str] = set()

    def walk(dependant) -> None:
        permission = getattr(dependant.call, "permission", None)
        if permission:
            asked.add(permission)
        for child in dependant.dependencies:
            walk(child)

    walk(route.dependant)
    return asked


def test_every_route_names_a_permission() -> None:
    routes = _routes()
    assert len(routes) > 30
    for route in routes:
        if route.path not in OPEN | SIGNED_IN:
            assert _permissions(route) & set(PERMISSIONS), f"{route.path} asks for no permission"


async def test_without_a_credential_every_route_answers_401(database_url: str, tmp_path: Path) -> None:
    async with (
        running_server(database_url, tmp_path) as server,
        httpx2.AsyncClient(base_url=server.url) as stranger,
    ):
        for route in _routes():
            if route.path in OPEN:
                continue
            path = route.path.format(**dict.fromkeys(route.param_convertors, "x"))
            for method in route.methods or ():
                answer = await stranger.request(
                    method, path, json={} if method in ("POST", "PATCH") else None
                )
                assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
                assert answer.json()["error"]["remedy"]


async def _signed_in(
    clients: AsyncExitStack, server: RunningServer, role: str
) -> tuple[httpx2.AsyncClient, people.User]:
    async with server.wiring.engine.begin() as connection:
        user = await people.add(connection, f"Some {role}", f"{role}@example.com", role)  # type: ignore[arg-type]
        link, _ = await credentials.make_signin_link(connection, user.id)
    client = httpx2.AsyncClient(base_url=server.url, headers={"x-openinspect": "1"})
    await clients.enter_async_context(client)
    answer = await client.post("/api/signin", json={"token": link})
    assert answer.status_code == 200, answer.text
    assert answer.json()["permissions"] == sorted(permissions_of(user.role))
    again = await client.post("/api/signin", json={"token": link})
    assert (again.status_code, again.json()["error"]["code"]) == (401, "link_invalid")
    return client, user


async def test_roles_hold(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session()
        async with AsyncExitStack() as clients:
            viewer, viewer_user = await _signed_in(clients, server, "viewer")
            admin, _ = await _signed_in(clients, server, "admin")
            assert (await viewer.get(f"/api/sessions/{session['id']}")).status_code == 200
            for method, path, body in (
                ("POST", "/api/sessions", {}),
                ("POST", f"/api/sessions/{session['id']}/prompts", {"text": "x"}),
                ("POST", "/api/repositories", {"path": "/tmp"}),
                ("POST", "/api/users", {"name": "X", "email": "x@example.com", "role": "owner"}),
                ("DELETE", f"/api/sessions/{session['id']}", None),
            ):
                answer = await viewer.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_permitted"), path
            owner_link = await admin.post(f"/api/users/{server.owner.id}/signin-link")
            assert owner_link.status_code == 403
            assert (
                await admin.patch(f"/api/users/{viewer_user.id}", json={"role": "owner"})
            ).status_code == 403
            last = await server.http.patch(f"/api/users/{server.owner.id}", json={"role": "admin"})
            assert (last.status_code, last.json()["error"]["code"]) == (409, "last_owner")
            assert (
                await admin.patch(f"/api/users/{viewer_user.id}", json={"disabled": True})
            ).status_code == 200
            assert (await viewer.get("/api/me")).status_code == 401


async def test_a_cookie_alone_changes_nothing_for_another_site(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server, AsyncExitStack() as clients:
        member, _ = await _signed_in(clients, server, "member")
        del member.headers["x-openinspect"]
        answer = await member.post("/api/sessions", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "header_missing")
        assert (await member.get("/api/me")).status_code == 200


async def test_tokens_are_scoped_revocable_and_never_wider_than_their_maker(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path) as server:
        narrow = (
            await server.http.post(
                "/api/tokens", json={"name": "ci", "scopes": ["sessions.read", "tokens.manage"]}
            )
        ).json()
        async with httpx2.AsyncClient(
            base_url=server.url, headers={"authorization": f"Bearer {narrow['token']}"}
        ) as client:
            assert (await client.get("/api/sessions")).status_code == 200
            assert (await client.post("/api/sessions", json={})).status_code == 403
            wider = await client.post("/api/tokens", json={"name": "wide", "scopes": ["*"]})
            assert (wider.status_code, wider.json()["error"]["code"]) == (403, "scope_beyond")
            listed = {one["id"]: one for one in (await server.http.get("/api/tokens")).json()}
            assert listed[narrow["id"]]["last_used_at"] is not None
            assert "token" not in listed[narrow["id"]]
            assert (await server.http.delete(f"/api/tokens/{narrow['id']}")).status_code == 204
            assert (await client.get("/api/sessions")).status_code == 401
        async with server.wiring.engine.connect() as connection:
            stored = (await connection.exec_driver_sql("SELECT token_hash FROM api_tokens")).scalars().all()
        assert narrow["token"] not in stored


async def test_a_narrow_token_gives_nobody_more_than_it_has_itself_and_changes_nobody_who_has_more(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path) as server:
        async with server.wiring.engine.begin() as connection:
            other = await people.add(connection, "Kim", "kim@example.com", "viewer")
            owner = await people.add(connection, "Lee", "lee@example.com", "owner")
            secret, _ = await credentials.make_token(
                connection, server.owner.id, "hr", ["users.manage", "users.read"], None
            )
        async with httpx2.AsyncClient(
            base_url=server.url, headers={"authorization": f"Bearer {secret}"}
        ) as narrow:
            for method, path, body in (
                ("POST", f"/api/users/{server.owner.id}/signin-link", None),
                ("POST", f"/api/users/{other.id}/signin-link", None),
                ("POST", "/api/users", {"name": "X", "email": "x@example.com", "role": "viewer"}),
                ("PATCH", f"/api/users/{other.id}", {"role": "owner"}),
                ("PATCH", f"/api/users/{other.id}", {"role": "member"}),
                ("PATCH", f"/api/users/{other.id}", {"disabled": True}),
                ("PATCH", f"/api/users/{owner.id}", {"disabled": True}),
                ("PATCH", f"/api/users/{owner.id}", {"email": "mine@example.com"}),
                ("PATCH", f"/api/users/{server.owner.id}", {"name": "Somebody"}),
            ):
                answer = await narrow.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_beyond"), path
        users = {one["email"]: one for one in await server.get("/users")}
        assert users["kim@example.com"]["role"] == "viewer"
        assert users["kim@example.com"]["disabled_at"] is None
        assert users["lee@example.com"]["disabled_at"] is None and "mine@example.com" not in users
        assert "x@example.com" not in users
        link = await server.http.post(f"/api/users/{server.owner.id}/signin-link")
        assert link.status_code == 201


async def test_a_branch_that_is_not_there_names_the_others_only_to_who_may_read_them(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path) as server:
        sample = SampleRepository.create(tmp_path / "sample", {"a": "1"})
        repository = (await server.http.post("/api/repositories", json={"path": str(sample.path)})).json()
        wrong = {"targets": [{"repository": repository["id"], "branch": "nowhere"}]}
        async with server.wiring.engine.begin() as connection:
            secret, _ = await credentials.make_token(
                connection, server.owner.id, "narrow", ["sessions.create"], None
            )
        told = await server.http.post("/api/sessions", json=wrong)
        assert told.status_code == 404 and "main" in told.json()["error"]["remedy"]
        async with httpx2.AsyncClient(
            base_url=server.url, headers={"authorization": f"Bearer {secret}"}
        ) as narrow:
            answer = await narrow.post("/api/sessions", json=wrong)
        assert answer.status_code == 404 and "main" not in answer.text


async def test_a_cookie_is_sent_again_whenever_its_session_is_put_off(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path) as server, AsyncExitStack() as clients:
        session = await server.session()
        async with server.wiring.engine.begin() as connection:
            user = await people.add(connection, "A reader", "reader@example.com", "viewer")
            link, _ = await credentials.make_signin_link(connection, user.id)
        reader = httpx2.AsyncClient(base_url=server.url, headers={"x-openinspect": "1"})
        await clients.enter_async_context(reader)
        signed_in = await reader.post("/api/signin", json={"token": link})
        cookie = signed_in.headers["set-cookie"]
        assert "Max-Age=2592000" in cookie

        async def a_while_passes() -> None:
            async with server.wiring.engine.begin() as connection:
                await connection.exec_driver_sql(
                    "UPDATE web_sessions SET last_used_at = now() - interval '2 minutes', expires_at = now() + interval '1 day'"
                )

        for path in ("/api/me", f"/api/sessions/{session['id']}/events", "/api/sessions/none"):
            await a_while_passes()
            assert (await reader.get(path)).headers["set-cookie"] == cookie
            assert "set-cookie" not in (await reader.get(path)).headers
            async with server.wiring.engine.connect() as connection:
                left = await connection.exec_driver_sql(
                    "SELECT expires_at > now() + interval '29 days' FROM web_sessions WHERE user_id = %(id)s",
                    {"id": user.id},
                )
                assert left.scalar()
        await a_while_passes()
        assert "Max-Age=0" in (await reader.post("/api/signout")).headers["set-cookie"]


def test_the_page_is_served_from_a_package_that_is_installed_by_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "assets").mkdir(parents=True)
    (tmp_path / "real" / "index.html").write_text("the page")
    (tmp_path / "real" / "assets" / "a.js").write_text("an asset")
    (tmp_path / "secret").write_text("not served")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(app, "STATIC", tmp_path / "link")
    client = TestClient(create_app())
    assert client.get("/assets/a.js").text == "an asset"
    assert client.get("/sessions/x").text == "the page"
    assert client.get("/assets/..%2f..%2fsecret").text != "not served"
