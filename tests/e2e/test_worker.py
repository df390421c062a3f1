"""Jobs in a process of their own: a server without jobs, and ``openinspect worker`` beside it on the same data folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from openinspect.db.postgres import EmbeddedPostgres
from openinspect.jobs.worker import STALLED_SECONDS
from openinspect.testing.live_server import LiveServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path / "data", jobs=False, OPENINSPECT_SANDBOX_DISK_MIB="256") as server:
        yield server


@contextmanager
def _worker(live: LiveServer) -> Iterator[subprocess.Popen[bytes]]:
    with (live.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "openinspect", "worker"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=live.environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError("the worker did not end") from None
            assert code == 0, (live.folder / "worker.log").read_text(errors="replace")[-3000:]


def _states(live: LiveServer, session_id: str) -> list[str]:
    return [
        event["body"]["state"]
        for event in live.events(session_id)
        if event["body"]["kind"] == "sandbox.changed"
    ]


def _killed_while_starting(live: LiveServer) -> tuple[str, str]:
    """A session whose sandbox a worker was starting when it was killed: both ids. It is tried again when the start was quicker."""
    with psycopg.connect(EmbeddedPostgres(live.folder / "postgres").url, autocommit=True) as database:
        for _ in range(5):
            session_id, prompt_id = live.session("write kept.txt: kept\nrun: cat kept.txt\nsay: ready")

            def sandbox(session: str = session_id) -> tuple[str, Any]:
                found = database.execute(
                    "SELECT state, handle FROM sandboxes WHERE session_id = %s", (session,)
                ).fetchone()
                assert found is not None
                return found[0], found[1]

            with _worker(live) as first:
                deadline = time.monotonic() + 60
                while sandbox()[0] == "requested":
                    assert time.monotonic() < deadline, "nobody starts the sandbox"
                    time.sleep(0.002)
                first.kill()
                first.wait()
            if sandbox() == ("booting", None):
                return session_id, prompt_id
    raise AssertionError("the worker could not be killed in the middle of a start")


def test_a_second_worker_takes_up_what_a_killed_one_was_starting(live: LiveServer) -> None:
    session_id, prompt_id = _killed_while_starting(live)
    began = time.monotonic()
    with _worker(live):
        finished = live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)["body"]
        assert finished["status"] == "completed", finished
        assert time.monotonic() - began < STALLED_SECONDS + 40
        outputs = [
            event["body"]["output"]
            for event in live.events(session_id)
            if event["body"]["kind"] == "tool.finished" and event["body"]["tool"] == "bash"
        ]
        assert [output.strip() for output in outputs] == ["kept"]
        # begun anew, or taken over when it was ready before anybody looked
        assert _states(live, session_id).count("booting") in (1, 2)
        with psycopg.connect(EmbeddedPostgres(live.folder / "postgres").url) as database:
            newest = "SELECT handle FROM sandboxes WHERE session_id = %s ORDER BY created_at DESC LIMIT 1"
            assert database.execute(newest, (session_id,)).fetchone() != (None,)
        for one in live.api.get("/sessions")["items"]:
            live.api.call("DELETE", f"/sessions/{one['id']}")  # a job, too
        live.wait_clean()


def test_nothing_starts_without_a_worker_and_everything_ends_with_the_server(live: LiveServer) -> None:
    session_id, _ = live.session("say: ready")
    time.sleep(1.5)
    assert _states(live, session_id) == ["requested"]
    with _worker(live) as worker:
        live.wait(session_id, "turn.finished", 120)
        live.end()
        live.wait_clean()
        assert worker.poll() is None, "it waits for the server to come back"
