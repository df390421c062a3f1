"""A backup holds everything, and a restore brings exactly that back or leaves things as they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.backup import backup, restore
from openinspect.db.engine import create_engine, transaction
from openinspect.db.errors import BackupFailed
from openinspect.db.folder import attached
from openinspect.db.migrate import migrate
from openinspect.db.postgres import EmbeddedPostgres
from openinspect.jobs import defer

pytestmark = pytest.mark.anyio

_EVENT = text(
    "INSERT INTO events (session_id, seq, kind, body) VALUES ('ses_1', :seq, 'text', jsonb_build_object('text', CAST(:text AS text)))"
)


async def fill(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(_EVENT, [{"seq": n, "text": f"Zeile {n} – ✓\\n\t'\"%"} for n in range(500)])
        await defer(connection, "some.job", queueing_lock="q", n=1)


async def contents(engine: AsyncEngine) -> dict[str, list[Any]]:
    """Every row of every table, and the sequences' values."""
    async with transaction(engine) as connection:
        tables = await connection.execute(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        )
        found: dict[str, list[Any]] = {}
        for (table,) in tables.all():
            rows = await connection.execute(text(f"SELECT t::text FROM {table} AS t ORDER BY 1"))
            found[table] = list(rows.scalars())
        sequences = await connection.execute(
            text("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
        )
        found["(sequences)"] = [tuple(row) for row in sequences]
        return found


async def test_there_and_back(engine: AsyncEngine, database_url: str, tmp_path: Path) -> None:
    await fill(engine)
    before = await contents(engine)
    assert len(before["events"]) == 500 and len(before["procrastinate_jobs"]) == 1
    file = tmp_path / "inspect.backup"
    await backup(database_url, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / ".inspect.backup.partial").exists()
    async with transaction(engine) as connection:
        await connection.execute(text("DELETE FROM events WHERE seq > 10"))
        await connection.execute(text("CREATE TABLE of_a_later_release (n int)"))
        await defer(connection, "another.job")
    await restore(database_url, file)
    assert await contents(engine) == before
    async with transaction(engine) as connection:  # functions and triggers are there as well
        assert await defer(connection, "some.job", queueing_lock="q", n=2) is False
        assert await defer(connection, "some.job", n=3) is True


async def test_a_restore_that_fails_changes_nothing(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    await fill_once(engine)
    good, torn, text_file = tmp_path / "good", tmp_path / "torn", tmp_path / "text"
    await backup(database_url, good)
    torn.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    text_file.write_text("not a backup")
    async with transaction(engine) as connection:
        revision = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    later = tmp_path / "later"
    await backup(database_url, later)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :now"), {"now": revision})
    before = await contents(engine)
    for file, why in [
        (torn, "pg_restore failed"),
        (text_file, "valid archive"),
        (later, "later release"),
        (tmp_path / "missing", "No such file"),
    ]:
        with pytest.raises(BackupFailed, match=why):
            await restore(database_url, file)
        assert await contents(engine) == before


async def fill_once(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("DELETE FROM events"))
        await connection.execute(text("DELETE FROM procrastinate_jobs"))
    await fill(engine)


async def test_a_backup_that_fails_leaves_the_old_file(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "inspect.backup"
    file.write_text("the last good one")
    with pytest.raises(BackupFailed, match="does not exist"):
        await backup(database_url.replace("/test_", "/no_such_"), file)
    assert file.read_text() == "the last good one"
    with pytest.raises(BackupFailed, match="could not be written"):
        await backup(database_url, tmp_path / "no" / "such" / "folder")


async def test_a_password_in_the_address_is_not_in_the_arguments(
    engine: AsyncEngine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "s3cr:et\\x'y"
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE ROLE visitor LOGIN SUPERUSER PASSWORD 's3cr:et\\x''y'"))
    seen: list[str] = []
    start = asyncio.create_subprocess_exec

    async def observed(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        seen.extend([*arguments, *options["env"].values()])
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", observed)
    url = database_url.replace("openinspect@", "visitor:s3cr%3Aet%5Cx%27y@").split("&passfile")[0]
    try:
        await backup(url, tmp_path / "file")
        await restore(url, tmp_path / "file")
    finally:
        async with transaction(engine) as connection:
            await connection.execute(text("REASSIGN OWNED BY visitor TO openinspect"))
            await connection.execute(text("DROP ROLE visitor"))
    assert len(seen) > 10
    assert not any(password in part or "s3cr" in part for part in seen)


async def test_from_another_process_through_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    server = EmbeddedPostgres(folder, durable=False)
    await migrate(await server.start())
    with attached(folder) as url:
        await backup(url, tmp_path / "file")
        await restore(url, tmp_path / "file")
        engine = create_engine(url)
        assert "events" in await contents(engine)
        await engine.dispose()
    await server.stop()
