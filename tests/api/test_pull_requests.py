"""What happens to a pull request is in its session's log once, in the name of who did it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from openinspect.forges import contract
from openinspect.identity import credentials, people
from openinspect.sessions.pull_requests import Wanted, open_for_turn
from openinspect.testing.repositories import SampleRepository
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider

pytestmark = pytest.mark.anyio


class _Opened(NamedTuple):
    server: RunningServer
    colleague: people.User
    theirs: httpx2.AsyncClient
    source: SampleRepository
    session_id: str
    one: contract.PullRequest

    async def post(self, by: httpx2.AsyncClient, action: str, body: dict[str, Any] | None = None) -> None:
        answer = await by.post(f"/api/pull-requests/{self.one.id}/{action}", json=body)
        assert answer.status_code == 200, answer.text

    async def changes(self) -> list[tuple[str, str | None]]:
        """What the log tells since it was opened, and of whom."""
        page = await self.server.get(f"/sessions/{self.session_id}/events", after=0, limit=1000)
        told = [event["body"] for event in page["events"] if event["body"]["kind"] == "pull_request"]
        assert told[0]["change"] == "opened"
        return [(body["change"], body["by"]["id"]) for body in told[1:]]


@asynccontextmanager
async def _opened(database_url: str, folder: Path) -> AsyncIterator[_Opened]:
    source = SampleRepository.create(folder / "source", {"a.txt": "one\n"})
    provider = DoubleProvider(folder / "data" / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, folder / "data", provider=provider) as server:
        services = server.wiring.services
        name = f"sample-{folder.name[-20:]}"
        added = await server.http.post("/api/repositories", json={"path": str(source.path), "name": name})
        assert added.status_code == 201, added.text
        session = await server.session("go", targets=[{"repository": name}])
        box = await provider.box()
        await box.connect()
        await box.ready()
        prompt_id = (await box.command("prompt"))["prompt_id"]
        source.commit_on(session["targets"][0]["work_branch"], "Work", {"b.txt": "two\n"})
        one = await open_for_turn(
            services.journal, services.forge, session["id"], prompt_id, Wanted("Work", ""), "http://x"
        )
        async with server.wiring.engine.begin() as connection:
            colleague = await people.add(connection, "A colleague", f"{name}@example.com", "admin")
            token, _ = await credentials.make_token(connection, colleague.id, "test", ["*"], None)
        headers = {"authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as theirs:
            yield _Opened(server, colleague, theirs, source, session["id"], one)


async def test_what_is_asked_for_twice_is_told_once(database_url: str, tmp_path: Path) -> None:
    async with _opened(database_url, tmp_path) as world:
        owner, colleague = world.server.owner.id, world.colleague.id
        for action in ("close", "reopen"):
            await world.post(world.theirs, action)
            await world.post(world.server.http, action)
        expected = [("closed", colleague), ("reopened", colleague)]
        assert await world.changes() == expected
        await world.post(world.server.http, "merge", {"method": "merge"})
        await world.post(world.theirs, "merge", {"method": "merge"})
        assert await world.changes() == [*expected, ("merged", owner)]


async def test_what_was_merged_with_git_itself_is_told_once_and_of_nobody(
    database_url: str, tmp_path: Path
) -> None:
    async with _opened(database_url, tmp_path) as world:
        world.source.git("merge", "-q", "--no-edit", world.one.head)
        assert await world.changes() == []
        path = f"/pull-requests/{world.one.id}"
        seen = await asyncio.gather(*(world.server.get(path) for _ in range(6)))
        assert {one["state"] for one in seen} == {"merged"}
        await world.post(world.theirs, "merge", {"method": "merge"})
        assert await world.changes() == [("merged", None)]


async def test_a_merge_that_a_crash_kept_from_the_log_is_told_of_who_did_it(
    database_url: str, tmp_path: Path
) -> None:
    async with _opened(database_url, tmp_path) as world:
        colleague = world.colleague
        await world.server.wiring.services.forge.merge(
            world.one.repository_id,
            world.one.number,
            method="squash",
            by=contract.Person(name=colleague.name, email=colleague.email, id=colleague.id),
        )
        assert await world.changes() == []
        await world.post(world.server.http, "merge", {"method": "merge"})
        assert await world.changes() == [("merged", colleague.id)]
