"""The server's side of the bridge: whatever a sandbox says, numbers count once, nothing gets stuck, and the server never fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from openinspect.db.engine import create_engine
from openinspect.gateway import bridge
from openinspect.protocol import events as e
from openinspect.sessions.intake import count
from openinspect.sessions.log import Journal
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio


def _by_hand(folder: Path) -> DoubleProvider:
    return DoubleProvider(folder / "door" / "gateway.sock", behaviour=None)


async def _box(server: RunningServer) -> tuple[str, str, SandboxDouble]:
    session = await server.session("go")
    box = await server.provider.box()
    await box.connect()
    await box.ready()
    command = await box.command("prompt")
    return session["id"], command["prompt_id"], box


async def test_what_is_sent_again_counts_once(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        await box.say(*[e.BootLog(step="x", text=str(n)) for n in range(50)], turn_id=prompt_id)
        await box.until_counted()
        for _ in range(3):
            await box._send_from(0)
        await box.drop()
        box.counted = 0
        box.running = prompt_id
        await box.connect()
        await box.say(e.TurnEnded(outcome="completed"), e.TurnEnded(outcome="failed"), turn_id=prompt_id)
        await box.until_counted()
        page = await server.get(f"/sessions/{session_id}/events", after=0, limit=1000)
        lines = [event["body"]["text"] for event in page["events"] if event["body"]["kind"] == "boot.log"]
        assert lines == [str(n) for n in range(50)]
        ended = [
            event["body"]["status"] for event in page["events"] if event["body"]["kind"] == "turn.finished"
        ]
        assert ended == ["completed"]


async def test_commands_are_sent_until_they_were_seen(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session = await server.session("go")
        box = await server.provider.box()
        await box.connect()
        await box.command("configure")
        box.acknowledge = False
        await box.ready()
        prompt_id = session["prompts"][0]["id"]
        assert (await box.command("prompt"))["prompt_id"] == prompt_id
        await box.drop()
        box.running, box.acknowledge = prompt_id, True
        await box.connect()
        assert (await box.command("prompt"))["prompt_id"] == prompt_id
        async with asyncio.timeout(10):
            while True:
                async with server.wiring.engine.connect() as connection:
                    if not (await connection.exec_driver_sql("SELECT count(*) FROM commands")).scalar():
                        break
                await asyncio.sleep(0.02)


async def test_a_newer_connection_takes_over(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        _, _, box = await _box(server)
        twin = SandboxDouble(box.socket, box.sandbox_id, box.token)
        twin.seen, twin.said = box.seen, list(box.said)
        await twin.connect()
        assert await box.closed() == 4409
        await twin.say(e.BootLog(step="x", text="from the newer one"))
        await twin.until_counted()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"protocol": 99}, 4426),
        ({"sandbox_id": "sbx_other"}, 4400),
        ({"type": "beat", "agent": "idle"}, 4400),
    ],
)
async def test_a_hello_that_is_not_right_is_refused(
    database_url: str, tmp_path: Path, change: dict[str, Any], code: int
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        await server.session("go")
        box = await server.provider.box()
        with pytest.raises(websockets.ConnectionClosed):
            await box.connect(**change)
        assert box.close_code == code


async def test_a_token_opens_nothing_when_it_is_foreign_or_its_sandbox_has_ended(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, _, box = await _box(server)
        stranger = SandboxDouble(box.socket, box.sandbox_id, server.token)  # a person's token is no sandbox's
        with pytest.raises(websockets.ConnectionClosed):
            await stranger.connect()
        assert stranger.close_code == 4401
        row = await server.get(f"/sessions/{session_id}")
        await server.wiring.services.keeper.stop(row["sandbox"]["id"], "a test ends it")
        late = SandboxDouble(box.socket, box.sandbox_id, box.token)
        with pytest.raises(websockets.ConnectionClosed):
            await late.connect()
        assert late.close_code == 4401


async def test_an_event_that_can_not_be_read_becomes_a_warning_in_its_place(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        for body in (
            {"kind": "turn.finished", "prompt_id": prompt_id, "status": "completed"},
            {"kind": "nonsense"},
            {},
        ):
            box.said.append((prompt_id, body))
        box.said.append(("prm_of_somebody_else", e.BootLog(step="x", text="afterwards").model_dump()))
        await box._send_from(box.counted)
        await box.until_counted()
        page = await server.get(f"/sessions/{session_id}/events", after=0, limit=1000)
        kinds = [event["body"]["kind"] for event in page["events"]]
        assert kinds[-4:] == ["warning", "warning", "warning", "boot.log"]
        assert page["events"][-1]["turn_id"] is None
        assert (await server.get(f"/sessions/{session_id}"))["activity"] == "running"


async def _bodies(server: RunningServer, session_id: str) -> list[dict[str, Any]]:
    page = await server.get(f"/sessions/{session_id}/events", after=0, limit=1000)
    return [event["body"] for event in page["events"]]


async def test_a_tools_input_beyond_its_bounds_is_left_out(database_url: str, tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        for given in ({"a": "x" * 65_536}, {"a": deep}, {"a": [[]] * 200_000}):
            await box.say(e.ToolStarted(call_id="c", tool="t", input=given), turn_id=prompt_id)
        whole = {"a": "x" * 65_000, "b": [[[]]] * 50}
        finished = e.ToolFinished(call_id="c", tool="t", state="completed", input=whole)
        await box.say(finished, turn_id=prompt_id)
        await box.until_counted()
        told = [body for body in await _bodies(server, session_id) if body["kind"].startswith("tool.")]
        assert [body["truncated"] for body in told] == [True] * 3 + [False]
        assert [body["input"] for body in told] == [{"…": "left out: too long"}] * 3 + [whole]


async def test_a_large_message_is_read_like_any_other(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        await box.say(
            e.TextPart(part_id="p", text="é" * 300_000),
            e.QuestionAsked(
                question_id="q",
                questions=[e.Question(text="?")],
                deadline=datetime(2030, 1, 1, tzinfo=UTC),
                default="x",
            ),
            turn_id=prompt_id,
        )
        await box.until_counted()
        assert [body["kind"] for body in await _bodies(server, session_id)][-2:] == ["text", "question.asked"]
        assert gc.isenabled()
        await box.send("[" + "[]," * 200_000 + "[]]")
        assert await box.closed() == 4400
        assert gc.isenabled()


async def test_a_hello_has_no_room_for_anything_else(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        await server.session("go")
        box = await server.provider.box()
        with pytest.raises(websockets.ConnectionClosed):
            await box.connect(more="x" * 4096)
        assert box.close_code == 4400


async def test_what_waits_and_what_is_counted_at_once_is_bounded_by_size(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []

    async def counting(transaction: Any, sandbox_id: str, taken: Any, chosen: Any) -> int:
        at_once.append(len(taken))
        return await count(transaction, sandbox_id, taken, chosen)

    monkeypatch.setattr(bridge, "count", counting)
    monkeypatch.setattr(bridge, "_COUNT_BYTES_AT_ONCE", 50_000)
    monkeypatch.setattr(bridge, "_BUFFER_BYTES", 60_000)
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        at_once.clear()
        for n in range(8):
            await box.say(*[e.BootLog(step="x", text=f"{n:05}" * 2000)] * 4, turn_id=prompt_id)
        await box.until_counted()
        assert max(at_once) == 4
        bodies = await _bodies(server, session_id)
        lines = [body["text"][:5] for body in bodies if body["kind"] == "boot.log"]
        assert lines == [f"{n:05}" for n in range(8) for _ in range(4)]


async def test_a_sandbox_that_says_too_much_has_failed_and_its_session_says_why(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "MAX_SAID_BYTES", 1024**2)
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        for _ in range(30):
            await box.say(*[e.BootLog(step="x", text="x" * 10_000)], turn_id=prompt_id)
        await box.until_counted()
        await box.drop()
        box.running = prompt_id
        await box.connect()  # what was counted before is not forgotten
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(90):
                await box.say(e.BootLog(step="x", text="x" * 10_000), turn_id=prompt_id)
        assert await box.closed() == 4400
        ended = (await _bodies(server, session_id))[-1]
        assert (ended["kind"], ended["status"]) == ("turn.finished", "failed")
        assert "said more than 1 MiB" in ended["reason"]
        async with asyncio.timeout(10):
            while box.sandbox_id in server.provider.boxes:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_large_events_are_given_in_pages_that_fit(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        for n in range(6):
            await box.say(e.TextPart(part_id=f"p{n}", text=str(n) * 900_000), turn_id=prompt_id)
        await box.until_counted()
        head, seqs = (await server.get(f"/sessions/{session_id}"))["head"], []
        page: dict[str, Any] = {"more": True}
        while page["more"]:
            page = await server.get(
                f"/sessions/{session_id}/events", after=seqs[-1] if seqs else 0, limit=1000
            )
            assert len(orjson.dumps(page)) < 3 * 1024 * 1024
            seqs += [event["seq"] for event in page["events"]]
        assert seqs == list(range(1, head + 1))
        page, back = {"more": True}, []
        while page["more"]:
            page = await server.get(
                f"/sessions/{session_id}/events", before=back[0] if back else head + 1, limit=1000
            )
            assert len(orjson.dumps(page)) < 3 * 1024 * 1024
            back = [event["seq"] for event in page["events"]] + back
        assert back == seqs
        async with server.watch(session_id) as watching:
            while watching.synced is None:
                message = await watching.next()
                assert len(orjson.dumps(message)) < 3 * 1024 * 1024
            assert watching.seq == head


async def test_a_connection_that_takes_over_does_not_know_what_ran_before_it(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, _, box = await _box(server)
        twin = SandboxDouble(box.socket, box.sandbox_id, box.token)
        twin.seen, twin.said = box.seen, list(box.said)
        await twin.connect()
        assert await box.closed() == 4409
        async with server.watch(session_id) as watching:
            # the prompt that runs now may have been sent by another process
            await twin.write("prm_other", "p1", 0, "Hello")
            async with asyncio.timeout(10):
                while watching.parts.get("p1") != "Hello":
                    await watching.next()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=12), children, max_size=4)
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    [
        "boot.log",
        "text",
        "tool.finished",
        "turn.ended",
        "sandbox.ready",
        "checked_out",
        "todos",
        "commit",
        "diff",
        "question.asked",
    ]
)
records = st.fixed_dictionaries(
    {
        "body": st.dictionaries(st.text(max_size=10), json_values, max_size=4)
        | st.builds(
            lambda kind, rest: {**rest, "kind": kind},
            kinds,
            st.dictionaries(
                st.sampled_from(["text", "part_id", "step", "outcome", "items", "files"]),
                json_values,
                max_size=4,
            ),
        )
    },
    optional={"turn_id": json_values},
)
frames = (
    st.text(max_size=60)
    | st.binary(max_size=40)
    | json_values.map(
        lambda value: (
            orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode() if _encodable(value) else "{}"
        )
    )
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from(["hello", "events", "deltas", "seen", "beat", "counted"]),
            "first": st.integers(-2, 5),
            "n": st.integers(-5, 2**70),
            "records": st.lists(records, max_size=4),
            "deltas": st.lists(json_values, max_size=3),
            "agent": st.text(max_size=5),
        }
    )
)


def _encodable(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


async def test_rubbish_never_gets_a_sandbox_stuck(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        await box.drop()
        batches: list[list[Any]] = []

        @settings(max_examples=60, deadline=None, derandomize=True, database=None)
        @given(st.lists(frames, min_size=1, max_size=5))
        def collect(batch: list[Any]) -> None:
            batches.append(batch)

        await asyncio.to_thread(collect)
        for batch in batches:
            liar = SandboxDouble(box.socket, box.sandbox_id, box.token)
            try:
                await liar.connect(running=prompt_id)
                for frame in batch:
                    if isinstance(frame, dict) and not _encodable(frame):
                        continue
                    await liar.send(frame)
                await asyncio.sleep(0)
            except websockets.ConnectionClosed:
                pass  # the server has refused it, which is what it should do
            finally:
                await liar.drop()
        # whatever it counted of that, an honest runtime that goes on from there is heard
        honest = SandboxDouble(box.socket, box.sandbox_id, box.token)
        honest.running = prompt_id
        await honest.connect()
        honest.said = [(None, {"kind": "boot.log", "step": "x", "text": "-"})] * honest.counted
        state = await server.get(f"/sessions/{session_id}")
        if state["sandbox"]["state"] == "ready":
            await honest.say(
                e.BootLog(step="x", text="still heard"), e.TurnEnded(outcome="completed"), turn_id=prompt_id
            )
            await honest.until_counted()
            state = await server.get(f"/sessions/{session_id}")
        assert state["activity"] == "idle"
        assert (await server.http.get("/healthz")).status_code == 200


async def test_a_defect_is_not_taken_for_a_disconnection(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defective(*_: object) -> int:
        raise RuntimeError("a defect")

    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        _, prompt_id, box = await _box(server)
        monkeypatch.setattr(bridge, "count", defective)
        with structlog.testing.capture_logs() as logged:
            await box.say(e.BootLog(step="x", text="x"), turn_id=prompt_id)
            assert await box.closed() == 1011
        told = [entry for entry in logged if entry["event"].startswith("bridge.")]
        assert [(entry["event"], entry["log_level"]) for entry in told] == [("bridge.failed", "error")]


async def test_an_open_part_that_could_not_be_written_is_written_later(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "CHECKPOINT_SECONDS", 3600)
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _box(server)
        services = server.wiring.services
        nowhere = create_engine("postgresql://nobody@127.0.0.1:1/none")
        away = bridge.Bridge(Journal(nowhere), services.hub, services.settings)
        async with server.watch(session_id) as watching:
            await box.write(prompt_id, "p1", 0, "Hello")
            while watching.parts.get("p1") != "Hello":
                await watching.next()
        channel = services.hub.find(session_id)
        assert channel is not None
        with pytest.raises(OperationalError):
            await away._checkpoint_one(channel)
        await services.bridge._checkpoint_one(channel)
        rows = await server.get(f"/sessions/{session_id}")
        assert [part["text"] for part in rows["open_parts"]] == ["Hello"]
        await nowhere.dispose()
