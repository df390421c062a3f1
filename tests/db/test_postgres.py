"""The embedded Postgres on good days: starting, stopping, who gets in, long paths."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from openinspect.db.engine import conninfo, create_engine, transaction
from openinspect.db.errors import DatabaseFolderInUse, DatabaseFolderUnusable, EmbeddedPostgresFailed
from openinspect.db.folder import SOCKET, database_url
from openinspect.db.postgres import EmbeddedPostgres

HERE = Path(__file__).parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing to another user needs root")


async def ask(url: str, statement: str) -> Any:
    async with await psycopg.AsyncConnection.connect(url, connect_timeout=5, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def run_as(uid: int, script: str, *arguments: str) -> dict[str, Any]:
    """The JSON line that ``script`` prints when it is run by user ``uid``."""
    command = [sys.executable, str(HERE / "as_user.py"), str(uid), str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)


def user_of(pid: int | None) -> int | None:
    """The user that a process runs as, None when it is gone."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except FileNotFoundError:
        return None


def host_state(folder: Path) -> tuple[object, ...]:
    """What a start must not change: accounts, mounts, the modes of the folders above."""
    modes = [parent.stat().st_mode for parent in folder.parents]
    return Path("/etc/passwd").read_bytes(), Path("/proc/self/mounts").read_bytes(), modes


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may walk to."""
    folder = Path(tempfile.mkdtemp(prefix="openinspect-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.anyio
async def test_data_outlives_a_stop_and_a_start(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "db")
    url = await server.start()
    await ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    pid = server.pid
    await server.stop()
    assert user_of(pid) is None
    assert await server.start() == url
    assert await ask(url, "SELECT answer FROM kept") == 42
    assert await ask(url, "SHOW fsync") == "on"
    assert await ask(url, "SHOW dynamic_shared_memory_type") == "mmap"
    await server.stop()


@pytest.mark.anyio
async def test_no_password_in_the_address_the_arguments_the_environment_or_the_log(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    url = await server.start()
    password = (tmp_path / "passfile").read_text().strip().rsplit(":", 1)[1]
    assert len(password) >= 32
    assert (tmp_path / "passfile").stat().st_mode & 0o777 == 0o600
    process = Path(f"/proc/{server.pid}")
    assert password not in url
    assert password.encode() not in (process / "cmdline").read_bytes()
    assert set((process / "environ").read_bytes().split(b"\0")) <= {
        b"PATH=/usr/bin:/bin",
        b"LC_ALL=C",
        b"TZ=UTC",
        b"",
    }
    await server.stop()
    assert password not in (tmp_path / "postgres.log").read_text()
    assert not (tmp_path / "run" / "password").exists()


@pytest.mark.anyio
async def test_the_password_is_needed_by_whoever_reaches_the_socket(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    url = await server.start()
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        await psycopg.AsyncConnection.connect(url, passfile="/dev/null")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(url, password="guess")
    await server.stop()


@needs_root
@pytest.mark.anyio
async def test_another_local_user_is_refused(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "db", durable=False)
    await server.start()
    seen = run_as(54_321, "intrude.py", str(open_folder / "db"))
    assert seen == {"folder": "PermissionError", "passfile": "PermissionError", "socket": "PermissionError"}
    # Also if the outermost folder were opened by mistake.
    (open_folder / "db").chmod(0o755)
    seen = run_as(54_321, "intrude.py", str(open_folder / "db"))
    assert seen == {"folder": "entered", "passfile": "PermissionError", "socket": "PermissionError"}
    await server.stop()


@needs_root
@pytest.mark.anyio
async def test_as_root_it_runs_under_a_user_without_an_account_and_changes_nothing_else(
    tmp_path: Path,
) -> None:
    before = host_state(tmp_path)
    server = EmbeddedPostgres(tmp_path / "db", uid=1_899_999_998, durable=False)
    await server.start()
    assert user_of(server.pid) == 1_899_999_998
    assert host_state(tmp_path) == before
    await server.stop()
    # An existing database stays with the user that it belongs to.
    again = EmbeddedPostgres(tmp_path / "db")
    await again.start()
    assert user_of(again.pid) == 1_899_999_998
    await again.stop()


@needs_root
@pytest.mark.parametrize("uid", [65_534, 54_321], ids=["with a name", "without a name"])
def test_as_an_ordinary_user(open_folder: Path, uid: int) -> None:
    os.chown(open_folder, uid, uid)
    for rows in (1, 2):
        seen = run_as(uid, "run_server.py", str(open_folder / "db"))
        if "cannot be given one" in seen.get("text", ""):
            pytest.skip(f"no user namespaces for ordinary users on this kernel: {seen['text']}")
        assert seen.get("rows") == rows, seen
    assert {path.stat().st_uid for path in (open_folder / "db").rglob("*")} == {uid}


@pytest.mark.anyio
async def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / "mit Leerzeichen & Umläuten"
    server = EmbeddedPostgres(folder, durable=False)
    url = await server.start()
    assert len(os.fsencode(folder / "run" / SOCKET)) > 107
    engine = create_engine(url, pool_size=2)
    for _ in range(2):
        async with transaction(engine) as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar() == 1
        await engine.dispose()  # the next round connects anew
    assert await ask(conninfo(url), "SELECT 2") == 2
    await server.stop()


@pytest.mark.anyio
async def test_a_second_server_on_the_same_folder_is_told_so(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    url = await server.start()
    with pytest.raises(DatabaseFolderInUse, match=f"process {os.getpid()}"):
        await EmbeddedPostgres(tmp_path).start()
    assert await ask(url, "SELECT 1") == 1  # and the first one does not notice
    assert await ask(database_url(tmp_path), "SELECT 1") == 1
    await server.stop()


@pytest.mark.anyio
async def test_a_folder_from_another_version_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("17\n")
    (tmp_path / "passfile").write_text("*:*:*:openinspect:x\n")
    with pytest.raises(DatabaseFolderUnusable, match="made by PostgreSQL 17"):
        await EmbeddedPostgres(tmp_path).start()
    with pytest.raises(DatabaseFolderUnusable):  # still not "in use"
        await EmbeddedPostgres(tmp_path).start()


@pytest.mark.anyio
async def test_without_the_wheel_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openinspect.db.binaries._PACKAGE", "no_such_package")
    with pytest.raises(EmbeddedPostgresFailed, match="Set OPENINSPECT_DATABASE_URL"):
        await EmbeddedPostgres(tmp_path).start()
