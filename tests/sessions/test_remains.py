"""A box dies with words in its spool that nobody has heard: they are found and counted, each once, before the sandbox is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.engine import RowMapping

from openinspect.db.tables import sandboxes
from openinspect.protocol import events as e
from openinspect.sandboxes.fake import UnisolatedProvider
from openinspect.sandboxes.local import processes
from openinspect.sandboxes.provider import ProviderError, Spooled
from openinspect.sessions.intake import end
from openinspect.sessions.remains import count_remains
from openinspect.settings import Settings
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio
_FAKE = Path(__file__).parents[1] / "runtime" / "with_fake.py"


class Scene:
    """A sandbox that is connected to a server without jobs: nothing is done but what the test does."""

    def __init__(self, server: RunningServer, provider: DoubleProvider, session: dict[str, object]) -> None:
        self.server = server
        self.provider = provider
        self.session_id = str(session["id"])
        self.box: SandboxDouble

    async def row(self) -> RowMapping:
        async with self.server.wiring.engine.connect() as connection:
            found = await connection.execute(
                select(sandboxes)
                .where(sandboxes.c.session_id == self.session_id)
                .order_by(sandboxes.c.created_at)
            )
            return found.mappings().first() or pytest.fail("no sandbox")

    async def boot(self) -> None:
        await self.server.wiring.services.keeper.start((await self.row())["id"])
        self.box = await self.provider.box()
        await self.box.connect()

    async def die(self, *said: tuple[str | None, BaseModel] | bytes) -> None:
        """The box is gone, with everything that it has ever said in its spool, and this too."""
        await self.box.drop()
        records = [orjson.dumps({"turn_id": turn, "body": body}) for turn, body in self.box.said]
        for item in said:
            if isinstance(item, tuple):
                item = orjson.dumps({"turn_id": item[0], "body": item[1].model_dump(mode="json")})
            records.append(item)
        self.provider.left[self.box.sandbox_id] = records

    async def count(self) -> int:
        services = self.server.wiring.services
        return await count_remains(services.journal, self.provider, await self.row(), services.settings)

    async def end(self) -> None:
        services = self.server.wiring.services
        async with services.journal.transaction() as transaction:
            await end(transaction, await self.row(), "lost", services.settings, "The box is gone.")

    async def prompts(self) -> list[str]:
        """Their states, in order."""
        session = await self.server.get(f"/sessions/{self.session_id}")
        return [each["status"] for each in sorted(session["prompts"], key=lambda each: each["position"])]

    async def kinds(self) -> list[str]:
        page = await self.server.get(f"/sessions/{self.session_id}/events", after=0, limit=1000)
        return [event["body"]["kind"] for event in page["events"]]


@asynccontextmanager
async def scene(database_url: str, folder: Path) -> AsyncIterator[Scene]:
    provider = DoubleProvider(folder / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, folder, provider=provider, jobs=False) as server:
        yield Scene(server, provider, await server.session("first"))


async def test_a_turn_whose_end_nobody_heard_is_completed(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as here:
        await here.boot()
        await here.box.ready()
        turn = (await here.box.command("prompt"))["prompt_id"]
        await here.box.until_counted()
        await here.server.http.post(f"/api/sessions/{here.session_id}/prompts", json={"text": "second"})
        await here.die(
            (turn, e.TextPart(part_id="p1", text="It is done.")), (turn, e.TurnEnded(outcome="completed"))
        )
        assert await here.count() == 2
        assert await here.count() == 0, "each counts once"
        assert await here.prompts() == ["completed", "queued"], "nothing is begun in a box that is gone"
        assert (await here.row())["state"] == "stopping", "that it has ended is another's to say"
        await here.end()
        assert await here.prompts() == ["completed", "queued"], "the second waits for another sandbox"
        kinds = await here.kinds()
        assert kinds.count("text") == kinds.count("turn.finished") == 1


async def test_a_sandbox_that_had_come_up_unheard_has_not_failed_to_start(
    database_url: str, tmp_path: Path
) -> None:
    async with scene(database_url, tmp_path) as here:
        await here.boot()
        await here.die((None, e.SandboxReady(runtime_version="1", agent="none")))
        assert await here.count() == 1
        assert await here.prompts() == ["queued"]
        await here.end()
        assert await here.prompts() == ["queued"]


async def test_more_than_fits_into_one_piece_is_counted_in_order(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as here:
        await here.boot()
        said = [(None, e.Warned(scope="boot", message=str(n))) for n in range(2_500)]
        await here.die(*said)
        assert await here.count() == 2_500
        told: list[str] = []
        after = 0
        while True:
            page = await here.server.get(f"/sessions/{here.session_id}/events", after=after, limit=1000)
            told += [each["body"]["message"] for each in page["events"] if each["body"]["kind"] == "warning"]
            if not page["more"]:
                break
            after = page["events"][-1]["seq"]
        assert told == [str(n) for n in range(2_500)]


async def test_rubbish_becomes_a_warning_in_its_place(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as here:
        await here.boot()
        await here.box.ready()
        turn = (await here.box.command("prompt"))["prompt_id"]
        await here.box.until_counted()
        await here.die(
            b"\xff\x00 no JSON",
            b"[" * 100_000,
            b'{"turn_id": 7, "body": []}',
            b'{"turn_id": null, "body": {"kind": "turn.finished"}}',
            (turn, e.TurnEnded(outcome="completed")),
        )
        assert await here.count() == 5
        assert await here.prompts() == ["completed"]
        assert (await here.kinds()).count("warning") == 4


async def test_what_can_t_be_read_does_not_keep_a_sandbox_from_ending(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(database_url, tmp_path) as here:
        await here.boot()

        async def gap(box_id: str, handle: object, after: int) -> Spooled:
            return Spooled(after + 2, [b"{}"])

        async def broken(box_id: str, handle: object, after: int) -> Spooled:
            raise ProviderError("the host refused")

        for spooled in (gap, broken):
            monkeypatch.setattr(here.provider, "spooled", spooled)
            assert await here.count() == 0
        await here.end()
        monkeypatch.undo()
        await here.die((None, e.Warned(scope="boot", message="too late")))
        assert await here.count() == 0, "it has ended: what it still says has no place"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The runtime's socket in it must not have a long name."""
    with tempfile.TemporaryDirectory(prefix="oi-") as name:
        yield Path(name)


async def test_a_box_that_was_killed_is_heard_out(database_url: str, short_path: Path) -> None:
    """The real runtime, its bridge process stopped so that nothing gets out, and then all of it killed."""
    provider = UnisolatedProvider(
        Settings(data_dir=short_path), command=(sys.executable, str(_FAKE), "{state}/../runtime.json")
    )
    async with running_server(database_url, short_path, provider=provider, jobs=False) as server:
        services = server.wiring.services
        session = await server.session("sleep 1.5\nsay nobody hears this")
        prompt_id = session["prompts"][0]["id"]
        here = Scene(server, DoubleProvider(server.door), session)
        sandbox_id = (await here.row())["id"]
        await services.keeper.start(sandbox_id)

        async def begun() -> bool:
            return "turn.started" in await here.kinds()

        await until(begun)
        row = await here.row()
        bridge = _below(row["handle"]["pid"], "openinspect.runtime.bridge")
        os.kill(bridge, signal.SIGSTOP)
        counted = (await here.row())["frames_counted"]

        async def over() -> bool:
            spooled = await provider.spooled(sandbox_id, None, counted)
            return any(b"turn.ended" in record for record in spooled.records)

        await until(over)
        os.kill(row["handle"]["pid"], signal.SIGKILL)
        assert await here.prompts() == ["running"]
        assert await count_remains(services.journal, provider, row, services.settings) >= 2
        assert processes.identify(bridge) is None, "something of it could still have said more"
        assert await here.prompts() == ["completed"]
        page = await server.get(f"/sessions/{session['id']}/events", after=0, limit=1000)
        said = [each for each in page["events"] if each["body"]["kind"] == "text"]
        assert [(each["turn_id"], each["body"]["text"]) for each in said] == [
            (prompt_id, "nobody hears this")
        ]
        assert await count_remains(services.journal, provider, row, services.settings) == 0


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.02)


def _below(pid: int, word: str) -> int:
    """The process with this word on its command line among a process's descendants."""
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if word.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
            with contextlib.suppress(LookupError):
                return _below(child, word)
    raise LookupError(word)
