"""A sandbox that pushes in vain for ever fills no log."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from dulwich.protocol import pkt_line

from openinspect.gateway import git_events
from openinspect.gateway.git_events import GitEvents
from openinspect.protocol.events import Pushed, PushRefused, Warned
from openinspect.testing.repositories import SampleRepository
from openinspect.testing.running_server import running_server
from openinspect.testing.sandbox_double import DoubleProvider


def refused(ref: str) -> PushRefused:
    return PushRefused(directory="repo", ref=ref, reason="not yours")


def test_each_turn_and_kind_has_so_many_and_one_warning() -> None:
    events = GitEvents(most=3)
    many = [refused(str(n)) for n in range(5)]
    first = events.within("ses_1", "prm_1", many)
    assert first[:3] == many[:3] and isinstance(first[3], Warned) and len(first) == 4
    assert events.within("ses_1", "prm_1", many) == []
    pushed = Pushed(directory="repo", ref="refs/heads/x", old_sha=None, new_sha="1" * 40)
    assert events.within("ses_1", "prm_1", [pushed]) == [pushed]
    for session, turn in (("ses_1", "prm_2"), ("ses_2", "prm_1"), ("ses_1", None)):
        assert events.within(session, turn, many[:2]) == many[:2]


@pytest.mark.anyio
async def test_refused_pushes_fill_no_session_s_log(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_events, "MOST", 20)
    source = SampleRepository.create(tmp_path / "source", {"a.txt": "one\n"})
    provider = DoubleProvider(tmp_path / "data" / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path / "data", provider=provider) as server:
        added = await server.http.post("/api/repositories", json={"path": str(source.path)})
        name = added.json()["name"]
        session = await server.session("go", targets=[{"repository": name}])
        box = await provider.box()
        lines = [pkt_line(f"{'0' * 40} {'1' * 40} refs/heads/other-{n}".encode()) for n in range(9)]
        lines[0] = pkt_line(lines[0][4:] + b"\0 report-status")
        door = httpx2.AsyncHTTPTransport(uds=str(server.door))
        headers = {"authorization": f"Bearer {box.agent_token}"}
        async with httpx2.AsyncClient(transport=door, base_url="http://door", headers=headers) as inside:
            for _ in range(6):
                answer = await inside.post(f"/git/{name}/git-receive-pack", content=b"".join(lines) + b"0000")
                assert b"ng refs/heads/other-0 a session pushes only its own branches" in answer.content
        page = await server.get(f"/sessions/{session['id']}/events", limit=500)
        kinds = [event["body"]["kind"] for event in page["events"]]
        assert kinds.count("git.refused") == 20
        assert [one for one in page["events"] if one["body"].get("scope") == "git"] != []
        assert kinds.count("warning") == 1
