"""What makes no sense is refused with a reason and a remedy, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
import structlog
from fastapi.testclient import TestClient

from openinspect.api import answers
from openinspect.api.app import create_app
from openinspect.testing.running_server import running_server
from openinspect.testing.sample_repository import create_sample_repository

pytestmark = pytest.mark.anyio

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_each_bad_request_says_what_to_do(database_url: str, tmp_path: Path) -> None:
    create_sample_repository(tmp_path / "sample")
    async with running_server(database_url, tmp_path / "data") as server:
        repository = (
            await server.http.post("/api/repositories", json={"path": str(tmp_path / "sample")})
        ).json()
        session = await server.session()
        prompts = f"/api/sessions/{session['id']}/prompts"
        cases = [
            ("POST", "/api/sessions", {"targets": [{"repository": "nowhere"}]}, 404, "repository_not_found"),
            (
                "POST",
                "/api/sessions",
                {"targets": [{"repository": repository["id"], "branch": "gone"}]},
                404,
                "branch_not_found",
            ),
            ("POST", "/api/sessions", {"model": "anthropic/claude-nonesuch"}, 422, "unknown_model"),
            ("POST", "/api/sessions", {"effort": "enormous"}, 422, "unknown_effort"),
            ("POST", "/api/sessions", {"modle": "x"}, 422, "invalid_request"),
            ("POST", "/api/repositories", {"path": str(tmp_path)}, 422, "repository_unusable"),
            ("POST", "/api/repositories", {}, 422, "path_or_url"),
            ("POST", prompts, {"text": "x" * 64_001}, 422, "invalid_request"),
            ("POST", prompts, {"text": "  "}, 422, "prompt_empty"),
            ("POST", prompts, {"text": "x", "attachments": ["att_none"]}, 422, "attachment_not_found"),
            ("POST", "/api/sessions/ses_none/prompts", {"text": "x"}, 404, "session_not_found"),
            ("POST", f"/api/sessions/{session['id']}/stop", {}, 409, "nothing_running"),
            ("GET", "/api/nothing-here", None, 404, "not_found"),
        ]
        for method, path, body, status, code in cases:
            answer = await server.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
            assert answer.json()["error"]["message"]
            assert "Traceback" not in answer.text
        assert (await server.get(f"/sessions/{session['id']}"))["prompts"] == []


async def test_what_is_nested_deep_or_has_an_endless_name_is_refused_without_a_word_in_the_log(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path) as server:
        with structlog.testing.capture_logs() as logged:
            for depth in (60, 900, 5_000, 100_000):
                for content in (
                    b'{"token": %s1%s}' % (b"[" * depth, b"]" * depth),
                    b'{"token": %s1%s}' % (b'{"a":' * depth, b"}" * depth),
                    b"[" * depth + b"]" * depth,
                ):
                    for path in ("/api/signin", "/api/sessions", "/api/tokens"):
                        answer = await server.http.post(
                            path, content=content, headers={"content-type": "application/json"}
                        )
                        assert answer.status_code in (400, 422), answer.text
                        assert answer.json()["error"]["remedy"]
            for name in ("x" * 300, "x" * 5_000, "assets/" + "x" * 300, "a/" * 2_000, "%ff" * 300, "é" * 300):
                assert (await server.http.get(f"/{name}")).status_code in (200, 404)
                assert (await server.http.get(f"/api/{name}")).status_code == 404
                assert (await server.http.get(f"/api/sessions/{name}")).status_code in (404, 422)
        assert [entry for entry in logged if entry["log_level"] == "error"] == []


def test_a_fault_is_logged_briefly_and_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    application = create_app()

    @application.get("/api-fault")
    async def fail(deep: int) -> None:
        if deep:
            await fail(deep - 1)
        raise RuntimeError("x" * 100_000)

    # before the routes that take any path
    application.router.routes.insert(0, application.router.routes.pop())
    client = TestClient(application)
    monkeypatch.setattr(answers, "_told", {})
    with structlog.testing.capture_logs() as logged:
        for _ in range(5):
            answer = client.get("/api-fault?deep=300")
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
            assert "content-security-policy" in answer.headers
        assert [entry["times"] for entry in logged] == [1]
        assert len(logged[0]["exception"]) < 10_000
        assert "RuntimeError" in logged[0]["exception"]
        monkeypatch.setattr(answers, "AGAIN_SECONDS", 0.0)
        client.get("/api-fault?deep=300")
        assert [entry["times"] for entry in logged] == [1, 5]


async def test_invalid_utf_8_and_broken_json_are_refused(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        half = b'{"title": "\xed\xa0\x80"}'  # of a surrogate pair, as itself
        for content in (b'{"title": "\xff\xfe"}', half, b'{"title": "\xc3', b"{", b"\x00\x01"):
            answer = await server.http.post(
                "/api/sessions", content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code in (400, 422), answer.text
            assert answer.json()["error"]["remedy"]


async def test_text_that_postgres_can_not_hold_is_kept_readable(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session()
        answer = await server.http.post(
            f"/api/sessions/{session['id']}/prompts",
            content=b'{"text": "a\\u0000b \\ud800"}',
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 201, answer.text
        async with server.watch(session["id"]) as watching:
            await watching.until("turn.finished")
        assert any("a\ufffdb" in str(event["body"]) for event in watching.events)


async def test_pictures_are_checked_by_their_content(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session()
        path = f"/api/sessions/{session['id']}/attachments"
        script = await server.http.post(
            path, files={"file": ("x.png", b"<script>alert(1)</script>", "image/png")}
        )
        assert (script.status_code, script.json()["error"]["code"]) == (422, "attachment_type")
        beginning = await server.http.post(path, files={"file": ("x.png", PNG[:40], "image/png")})
        assert (beginning.status_code, beginning.json()["error"]["code"]) == (422, "attachment_broken")
        named = await server.http.post(path, files={"file": ("a" * 5_000 + ".png", PNG, "image/png")})
        assert (named.status_code, named.json()["error"]["code"]) == (400, "body_unreadable")
        assert "JSON" not in named.text and "200 characters" in named.json()["error"]["remedy"]
        large = await server.http.post(
            path, files={"file": ("x.png", PNG + b"\0" * (10 * 1024 * 1024), "image/png")}
        )
        assert large.status_code == 413
        good = await server.http.post(path, files={"file": ("x.png", PNG, "text/html")})
        assert good.status_code == 201
        stored = await server.http.get(f"{path}/{good.json()['id']}")
        assert stored.content == PNG
        assert stored.headers["content-type"] == "image/png"
        assert stored.headers["x-content-type-options"] == "nosniff"
        answer = await server.http.post(
            f"/api/sessions/{session['id']}/prompts", json={"attachments": [good.json()["id"]]}
        )
        assert answer.status_code == 201
        assert answer.json()["attachments"][0]["media_type"] == "image/png"


async def test_an_archived_session_takes_no_pictures(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session()
        await server.http.post(f"/api/sessions/{session['id']}/archive")
        refused = await server.http.post(
            f"/api/sessions/{session['id']}/attachments", files={"file": ("x.png", PNG, "image/png")}
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_archived")


async def test_deleting_a_session_really_removes_it(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session("say something")
        await server.http.post(
            f"/api/sessions/{session['id']}/attachments", files={"file": ("x.png", PNG, "image/png")}
        )
        await server.until_status(session["id"], session["prompts"][0]["id"], "completed")
        assert (await server.http.delete(f"/api/sessions/{session['id']}")).status_code == 202
        assert (await server.http.get(f"/api/sessions/{session['id']}")).status_code == 404
        async with asyncio.timeout(20):
            while True:
                async with server.wiring.engine.connect() as connection:
                    left = [
                        (
                            await connection.exec_driver_sql(
                                f"SELECT count(*) FROM {table} WHERE {column} = %(id)s", {"id": session["id"]}
                            )
                        ).scalar()
                        for table, column in (
                            ("sessions", "id"),
                            ("events", "session_id"),
                            ("prompts", "session_id"),
                            ("sandboxes", "session_id"),
                            ("attachments", "session_id"),
                        )
                    ]
                if not any(left):
                    break
                await asyncio.sleep(0.05)
        assert session["id"] not in server.provider.disks
        assert [path.name for path in (tmp_path / "blobs").rglob("*")] == ["sessions"]
