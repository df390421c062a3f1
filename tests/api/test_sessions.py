"""Sessions are created and deleted as their routes promise, also many at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openinspect.testing.repositories import SampleRepository
from openinspect.testing.running_server import running_server

pytestmark = pytest.mark.anyio


async def test_more_sessions_than_connections_are_created_on_a_branch_at_once(
    database_url: str, tmp_path: Path
) -> None:
    sample = SampleRepository.create(tmp_path / "source", {"a.txt": "one\n"})
    async with running_server(database_url, tmp_path / "data", database_pool_size=4, jobs=False) as server:
        added = await server.http.post("/api/repositories", json={"path": str(sample.path)})
        assert added.status_code == 201, added.text
        repository = added.json()
        target = {"repository": repository["name"], "branch": repository["default_branch"]}
        answers = await asyncio.gather(
            *(server.http.post("/api/sessions", json={"targets": [target]}) for _ in range(12))
        )
        assert [answer.status_code for answer in answers] == [201] * 12
        none = await server.http.post("/api/sessions", json={"targets": [{**target, "branch": "nowhere"}]})
        assert (none.status_code, none.json()["error"]["code"]) == (404, "branch_not_found")
        sample.git("update-ref", "refs/heads/-dash", "main")
        dash = await server.http.post("/api/sessions", json={"targets": [{**target, "branch": "-dash"}]})
        assert (dash.status_code, dash.json()["error"]["code"]) == (404, "branch_not_found")
        assert "option" in dash.json()["error"]["message"] and "Choose one of" not in dash.text


async def test_a_request_id_makes_one_session_and_can_not_be_used_for_another(
    database_url: str, tmp_path: Path
) -> None:
    asked = {"title": "One", "client_request_id": "k", "prompt": {"text": "Do it", "client_request_id": "p"}}
    async with running_server(database_url, tmp_path, jobs=False) as server:
        first, *again = await asyncio.gather(
            *(server.http.post("/api/sessions", json=asked) for _ in range(4))
        )
        assert first.status_code == 201, first.text
        assert [(one.status_code, one.json()["id"]) for one in again] == [(201, first.json()["id"])] * 3
        for other in (
            {"prompt": {"text": "Do something else"}},
            {"title": "Two"},
            {"prompt": None},
            {"effort": "high"},
        ):
            refused = await server.http.post("/api/sessions", json={**asked, **other})
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "request_id_reused"), other
        only = (await server.get("/sessions", q="One"))["items"]
        assert [one["id"] for one in only] == [first.json()["id"]]
