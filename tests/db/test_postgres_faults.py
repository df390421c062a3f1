"""The embedded Postgres on bad days: everything that can be killed is killed, the disk is full, the folder read-only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from openinspect.db.errors import DatabaseDiskFull, DatabaseFolderUnusable
from openinspect.db.postgres import EmbeddedPostgres

HERE = Path(__file__).parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


async def ask(url: str, statement: str) -> Any:
    async with await psycopg.AsyncConnection.connect(url, connect_timeout=5, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None


async def ask_until(url: str, statement: str, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask(url, statement)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, f"no answer within {seconds} s"
            await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[EmbeddedPostgres, str, list[str]]]:
    states: list[str] = []
    server = EmbeddedPostgres(folder, on_change=states.append)
    url = await server.start()
    watching = asyncio.create_task(server.watch())
    try:
        yield server, url, states
    finally:
        await server.stop()
        await asyncio.wait_for(watching, 5)  # it ends by itself


@pytest.mark.anyio
async def test_killed_postgres_is_back_within_seconds_with_what_was_committed(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, url, states):
        await ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        while server.restarts == 0:
            assert time.monotonic() - killed < 10
            await asyncio.sleep(0.01)
        assert await ask(url, "SELECT answer FROM kept") == 42
        assert server.pid != first
        assert states == ["running", "restarting", "running"]
        assert server.problem is None


@pytest.mark.anyio
async def test_a_backend_of_a_killed_postgres_that_is_busy_does_not_stand_in_the_way(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, url, _):
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        backend = connection.info.backend_pid
        loop = b"DO $$ DECLARE n bigint := 0; BEGIN LOOP n := n + 1; END LOOP; END $$"
        busy = asyncio.create_task(connection.execute(loop))
        busy_since = time.monotonic()
        while await ask(url, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") != "active":
            assert time.monotonic() - busy_since < 5
            await asyncio.sleep(0.01)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(busy, 10)
        assert await ask_until(url, "SELECT 1", 10) == 1
        assert gone(backend)


@pytest.mark.anyio
async def test_a_killed_backend_costs_only_the_connections(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, url, _):
        main = server.pid
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        assert await ask_until(url, "SELECT 1", 10) == 1
        assert server.pid == main
        await connection.close()


@pytest.mark.anyio
async def test_killed_server_takes_postgres_with_it_and_the_next_start_works(tmp_path: Path) -> None:
    for rows in (1, 2):
        owner = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "run_server.py"), str(tmp_path), "hold", stdout=asyncio.subprocess.PIPE
        )
        assert owner.stdout is not None
        seen = json.loads(await asyncio.wait_for(owner.stdout.readline(), 30))
        assert seen["rows"] == rows
        owner.kill()
        await owner.wait()
        # No pause here: the next start has to cope with the old one's last moments.
        server = EmbeddedPostgres(tmp_path)
        url = await server.start()
        assert gone(seen["pid"])
        assert await ask(url, "SELECT count(*) FROM kept") == rows
        await server.stop()


@pytest.mark.anyio
async def test_both_killed_at_the_same_moment(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "run_server.py"), str(tmp_path), "hold", stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    seen = json.loads(await asyncio.wait_for(owner.stdout.readline(), 30))
    os.kill(seen["pid"], signal.SIGKILL)
    owner.kill()
    await owner.wait()
    assert (tmp_path / "data" / "postmaster.pid").exists()  # stale
    server = EmbeddedPostgres(tmp_path)
    assert await ask(await server.start(), "SELECT count(*) FROM kept") == 1
    await server.stop()


@pytest.mark.anyio
async def test_a_pid_file_that_names_a_process_of_somebody_else(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    await server.start()
    await server.stop()
    (tmp_path / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n/elsewhere\n1\n5432\n\n\n")
    assert await ask(await server.start(), "SELECT 1") == 1
    await server.stop()


@pytest.mark.anyio
async def test_a_first_start_that_was_interrupted_begins_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    starting = asyncio.create_task(server.start())
    deadline = time.monotonic() + 20
    while not (tmp_path / "data.new" / "base").exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await ask(await server.start(), "SELECT 1") == 1
    assert not (tmp_path / "data.new").exists()
    await server.stop()


@needs_root
@pytest.mark.parametrize(
    ("mount", "error", "says"),
    [
        ("size=1m", DatabaseDiskFull, "no space is left"),
        ("size=20m", DatabaseDiskFull, "no space is left"),
        ("ro", DatabaseFolderUnusable, "Read-only file system"),
    ],
)
def test_a_folder_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, mount: str, error: type[Exception], says: str
) -> None:
    script = f'mount -t tmpfs -o {mount} tmpfs "$0" && exec "$1" "$2" "$0"'
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        str(tmp_path),
        sys.executable,
        str(HERE / "run_server.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    seen = json.loads(done.stdout)
    assert seen["error"] == error.__name__
    assert says in seen["text"] and str(tmp_path) in seen["text"]
    assert "Traceback" not in done.stderr


@pytest.mark.anyio
async def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("")
    with pytest.raises(DatabaseFolderUnusable, match="set OPENINSPECT_DATA_DIR"):
        await EmbeddedPostgres(tmp_path / "db").start()


@pytest.mark.anyio
async def test_watch_goes_on_trying_and_says_why(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, url, _):
        control = tmp_path / "data" / "global" / "pg_control"
        control.rename(tmp_path / "aside")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while server.problem is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert (
            "pg_control" in server.problem.why or "could not find the database system" in server.problem.why
        )
        (tmp_path / "aside").rename(control)
        assert await ask_until(url, "SELECT 1", 20) == 1
        assert server.problem is None or await ask_until(url, "SELECT 1", 5) == 1


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_a_root_that_may_not_mount_is_told_what_to_do(tmp_path: Path) -> None:
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    command += [sys.executable, str(HERE / "run_server.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    seen = json.loads(done.stdout)
    assert seen["error"] == "EmbeddedPostgresFailed"
    assert "run the server as an ordinary user" in seen["text"]
