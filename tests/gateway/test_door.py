"""What a sandbox tells of its work trees is kept for its own session's repositories, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import websockets

from openinspect.testing.repositories import SampleRepository
from openinspect.testing.running_server import running_server
from openinspect.testing.sandbox_double import DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio


async def test_the_newest_difference_of_each_repository_is_kept(database_url: str, tmp_path: Path) -> None:
    source = SampleRepository.create(tmp_path / "source", {"a.txt": "one\n"})
    provider = DoubleProvider(tmp_path / "data" / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path / "data", provider=provider) as server:
        added = await server.http.post("/api/repositories", json={"path": str(source.path)})
        assert added.status_code == 201, added.text
        name = added.json()["name"]
        session = await server.session("go", targets=[{"repository": name}])
        box = await provider.box()
        door = httpx2.AsyncHTTPTransport(uds=str(server.door))
        headers = {"authorization": f"Bearer {box.token}"}
        async with httpx2.AsyncClient(transport=door, base_url="http://door", headers=headers) as inside:

            async def tell(directory: str, head: str) -> httpx2.Response:
                told = {"directory": "told", "base_sha": "a" * 40, "head_sha": head, "files": []}
                return await inside.put(f"/bridge/diffs/{directory}", json=told)

            for head in ("b" * 40, "c" * 40):
                assert (await tell(name, head)).status_code == 204
            refused = await tell("elsewhere", "b" * 40)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "directory_unknown")
            for token in ("made up", box.agent_token):
                inside.headers["authorization"] = f"Bearer {token}"
                assert (await tell(name, "d" * 40)).status_code == 401
        kept = (await server.get(f"/sessions/{session['id']}/diff"))["repositories"]
        assert [(one["directory"], one["head_sha"]) for one in kept] == [(name, "c" * 40)]


async def test_what_runs_in_a_sandbox_can_not_speak_as_its_runtime(database_url: str, tmp_path: Path) -> None:
    """The agent can read its own token: it opens git, models and tools, and never the bridge. The runtime's opens the bridge alone."""
    provider = DoubleProvider(tmp_path / "data" / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path / "data", provider=provider) as server:
        await server.session("go")
        box = await provider.box()
        forger = SandboxDouble(box.socket, box.sandbox_id, box.agent_token)
        with pytest.raises(websockets.ConnectionClosed):
            await forger.connect()
        assert forger.close_code == 4401
        await box.connect()
        door = httpx2.AsyncHTTPTransport(uds=str(server.door))
        async with httpx2.AsyncClient(transport=door, base_url="http://door") as inside:
            for token, expected in ((box.token, 401), (box.agent_token, 400)):
                answer = await inside.post(
                    "/llm/anthropic/v1/messages", content=b"{", headers={"authorization": f"Bearer {token}"}
                )
                assert answer.status_code == expected, answer.text
        await box.drop()
