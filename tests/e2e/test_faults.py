"""Kill anything at any moment, in the middle of a streaming turn: no prompt, event or commit is lost, nothing comes twice, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from openinspect.testing.live_server import LiveServer
from openinspect.testing.sample_repository import create_sample_repository

pytestmark = pytest.mark.timeout(300)

STREAM = "say 400 words every 10 ms"
WORDS = 400


@pytest.fixture(scope="module")
def session(live: LiveServer) -> str:
    """A session whose sandbox is ready."""
    session_id, _ = live.session("say: ready")
    live.wait(session_id, "turn.finished", 120)
    return session_id


def _stream(live: LiveServer, session_id: str) -> str:
    prompt_id = live.prompt(session_id, STREAM)
    live.wait_for_text(session_id, 30)
    return prompt_id


def _whole_text(live: LiveServer, session_id: str, prompt_id: str) -> None:
    """The turn completed, and its text is there once and whole."""
    finished = live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)["body"]
    assert finished["status"] == "completed", finished
    parts = [
        event["body"]
        for event in live.events(session_id)
        if event["turn_id"] == prompt_id and event["body"]["kind"] == "text"
    ]
    whole = [part["text"] for part in parts if not part["truncated"]]
    assert [len(text.split()) for text in whole] == [WORDS, len(["Done."])]
    # what was broken off comes before what is whole
    assert [part["text"] for part in parts[-2:]] == whole


def _ended_with_reason(live: LiveServer, session_id: str, prompt_id: str) -> dict:
    """The turn went on and completed, or failed with a reason and a remedy."""
    finished = live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)["body"]
    if finished["status"] != "completed":
        assert finished["status"] == "failed"
        assert finished["reason"]
        assert finished["remedy"]
    return finished


def test_kill_the_server(live: LiveServer, session: str) -> None:
    prompt_id = _stream(live, session)
    queued = live.prompt(session, "say: afterwards")
    live.kill()
    time.sleep(1)  # the agent goes on without it
    live.start()
    _whole_text(live, session, prompt_id)
    assert live.wait(session, "turn.finished", 60, prompt_id=queued)["body"]["status"] == "completed"


def test_kill_postgres(live: LiveServer, session: str) -> None:
    prompt_id = _stream(live, session)
    postmaster = int((live.folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGKILL)
    _whole_text(live, session, prompt_id)


def test_kill_the_bridge(live: LiveServer, session: str) -> None:
    prompt_id = _stream(live, session)
    bridges = live.processes("openinspect.runtime.bridge")
    assert bridges
    for pid in bridges:
        os.kill(pid, signal.SIGKILL)
    _whole_text(live, session, prompt_id)


def test_kill_the_agent(live: LiveServer, session: str) -> None:
    prompt_id = _stream(live, session)
    agents = live.processes("opencode", "serve")
    assert agents
    for pid in agents:
        os.kill(pid, signal.SIGKILL)
    _ended_with_reason(live, session, prompt_id)
    live.wait(session, "agent.restarted", 60)
    again = live.prompt(session, "say: still here")
    assert live.wait(session, "turn.finished", 60, prompt_id=again)["body"]["status"] == "completed"


def test_kill_the_sandbox(live: LiveServer) -> None:
    session_id, first = live.session("write kept.txt: kept\nsay 400 words every 10 ms")
    live.wait_for_text(session_id, 30)
    box = live.api.get(f"/sessions/{session_id}")["sandbox"]["id"]
    for pid in live.boxes():
        if _box_of(pid) == box:
            os.kill(pid, signal.SIGKILL)
    finished = live.wait(session_id, "turn.finished", 60, prompt_id=first)["body"]
    assert finished["status"] == "failed"
    assert finished["reason"]
    assert "etry" in finished["remedy"]
    again = live.prompt(session_id, "run: cat kept.txt")
    assert live.wait(session_id, "turn.finished", 120, prompt_id=again)["body"]["status"] == "completed"
    outputs = [
        event["body"]["output"]
        for event in live.events(session_id)
        if event["body"]["kind"] == "tool.finished" and event["turn_id"] == again
    ]
    assert any("kept" in output for output in outputs)
    live.api.call("DELETE", f"/sessions/{session_id}")


def _box_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").rsplit("/", 1)[-1]


def test_a_retry_knows_what_is_done_already(live: LiveServer, tmp_path: Path) -> None:
    """Committed and pushed, then the sandbox is killed: the failed turn says so, and so does the prompt of the retry."""
    create_sample_repository(tmp_path / "lending")
    repository = live.api.post("/repositories", {"path": str(tmp_path / "lending")})["id"]
    text = "\n".join(
        (
            "write note.txt: a note",
            "run: git add -A && git commit -q -m 'Add a note' && git push -q -u origin HEAD",
            STREAM,
        )
    )
    session_id, first = live.session(text, targets=[{"repository": repository}])
    live.wait(session_id, "git.pushed", 120)
    live.wait_for_text(session_id, 30)
    box = live.api.get(f"/sessions/{session_id}")["sandbox"]["id"]
    for pid in live.boxes():
        if _box_of(pid) == box:
            os.kill(pid, signal.SIGKILL)
    finished = live.wait(session_id, "turn.finished", 60, prompt_id=first)["body"]
    assert finished["status"] == "failed"
    assert [line.split()[0] for line in finished["done"]] == ["committed", "pushed"], "in this order"
    again = live.api.post(f"/sessions/{session_id}/prompts/{first}/retry")["id"]
    assert live.wait(session_id, "turn.finished", 120, prompt_id=again)["body"]["status"] == "completed"
    said = [
        event["body"]["text"]
        for event in live.events(session_id)
        if event["turn_id"] == again and event["body"]["kind"] == "text"
    ]
    assert any("I go on from a previous attempt" in one and "Add a note" in one for one in said), said
    branch = live.api.get(f"/sessions/{session_id}")["targets"][0]["work_branch"]
    subjects = subprocess.run(
        ["git", "log", "--format=%s", f"main..{branch}"],
        cwd=tmp_path / "lending",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert subjects == ["Add a note"]
    live.api.call("DELETE", f"/sessions/{session_id}")


def test_fill_the_disk(live: LiveServer) -> None:
    session_id, first = live.session("run: dd if=/dev/zero of=big bs=1M count=2000\nsay: full")
    _ended_with_reason(live, session_id, first)
    events = live.events(session_id)
    outputs = " ".join(
        event["body"].get("output", "") for event in events if event["body"]["kind"] == "tool.finished"
    )
    assert "No space left" in outputs or "Disk quota" in outputs
    again = live.prompt(session_id, "run: rm -f big\nsay: room again")
    assert live.wait(session_id, "turn.finished", 90, prompt_id=again)["body"]["status"] == "completed"
    live.api.call("DELETE", f"/sessions/{session_id}")


def test_stop_is_quick_even_when_a_tool_will_not_end(live: LiveServer, session: str) -> None:
    prompt_id = live.prompt(session, "run: trap '' TERM INT; sleep 300 & wait; sleep 300")
    live.wait(session, "tool.started", 60, count=1, tool="bash")
    deadline = time.monotonic() + 30
    while not live.processes("sleep", "300") and time.monotonic() < deadline:
        time.sleep(0.1)
    began = time.monotonic()
    live.api.post(f"/sessions/{session}/stop")
    finished = live.wait(session, "turn.finished", 20, prompt_id=prompt_id)["body"]
    assert finished["status"] == "stopped"
    assert time.monotonic() - began < 8  # five seconds, and what reading the log takes on a busy machine
    deadline = time.monotonic() + 10
    while live.processes("sleep", "300") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not live.processes("sleep", "300")


def test_nothing_is_left_behind(live: LiveServer) -> None:
    """The last one of this module: after all that, every session is deleted, and the machine is as before."""
    for one in live.api.get("/sessions", limit=100)["items"]:
        live.api.call("DELETE", f"/sessions/{one['id']}")
    live.wait_clean()
    disks = live.folder / "sandboxes" / "disks"
    deadline = time.monotonic() + 30
    while left := [path.name for path in disks.iterdir() if path.name != "base"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
