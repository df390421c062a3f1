"""Migrations lead to exactly the tables that the code knows, once, whoever starts them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, text
from sqlalchemy.exc import IntegrityError

from openinspect.db.engine import create_engine
from openinspect.db.job_tables import upgrade_job_tables
from openinspect.db.migrate import DatabaseTooNew, _config, migrate
from openinspect.db.tables import metadata


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_server_default": True,
            "include_name": lambda name, kind, _: (
                not (kind == "table" and (name.startswith("procrastinate_") or name == "alembic_version"))
            ),
        },
    )
    return list(compare_metadata(context, metadata))


@pytest.mark.anyio
async def test_the_migrated_schema_is_the_one_in_the_code(database_url: str) -> None:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        assert await connection.run_sync(_differences) == []
        checks = await connection.execute(
            text(
                "SELECT conname FROM pg_constraint c JOIN pg_class t ON t.oid = conrelid"
                " WHERE contype = 'c' AND t.relname NOT LIKE 'procrastinate_%'"
            )
        )
        # Alembic does not compare check constraints.
        expected = {
            str(constraint.name)
            for table in metadata.tables.values()
            for constraint in table.constraints
            if isinstance(constraint, CheckConstraint)
        }
        assert {name for (name,) in checks} == expected
    await engine.dispose()


@pytest.mark.anyio
async def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate(empty_database_url) for _ in range(5)))
    await migrate(empty_database_url)
    engine = create_engine(empty_database_url)
    async with engine.begin() as connection:
        revisions = (await connection.execute(text("SELECT version_num FROM alembic_version"))).all()
        assert len(revisions) == 1
        assert (await connection.execute(text("SELECT to_regclass('procrastinate_jobs')"))).scalar()
    await engine.dispose()


@pytest.mark.anyio
async def test_a_failed_migration_leaves_nothing_behind(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("openinspect.db.migrate.upgrade_job_tables", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        await migrate(empty_database_url)
    engine = create_engine(empty_database_url)
    async with engine.begin() as connection:
        tables = await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        assert tables.all() == []
    await engine.dispose()


@pytest.mark.anyio
async def test_a_database_of_a_later_release_is_refused(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    engine = create_engine(empty_database_url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match="revision 9999"):
        await migrate(empty_database_url)
    await engine.dispose()


@pytest.mark.anyio
async def test_job_tables_of_an_older_procrastinate_are_brought_up_to_date(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    engine = create_engine(empty_database_url)
    names = text("SELECT name FROM procrastinate_migrations ORDER BY name")
    async with engine.begin() as connection:
        before = list((await connection.execute(names)).scalars())
        # As if the newest migration, which may run twice, were not there yet.
        await connection.execute(
            text("DELETE FROM procrastinate_migrations WHERE name = :name"), {"name": before[-1]}
        )
        await upgrade_job_tables(connection)
        assert list((await connection.execute(names)).scalars()) == before
    await engine.dispose()


@pytest.mark.anyio
async def test_people_of_one_address_are_told_apart_and_nothing_else_is_lost(empty_database_url: str) -> None:
    """The second migration, on a database that the first release has written to."""
    engine = create_engine(empty_database_url)
    add = text("INSERT INTO users (id, name, email, role, created_at) VALUES (:i, :i, :e, 'member', :at)")
    people = [
        ("usr_3", "Sam@Example.com", 3),
        ("usr_1", "sam@example.com", 1),
        ("usr_2", "sam@example.com", 1),
        ("usr_4", "kim@example.com", 4),
        ("usr_5", "no address", 5),
        ("usr_6", "no address", 6),
    ]
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), "0001"))
        for identifier, email, day in people:
            at = datetime(2026, 1, day, tzinfo=UTC)
            await connection.execute(add, {"i": identifier, "e": email, "at": at})
        await connection.execute(
            text("INSERT INTO sessions (id, owner_id, model) VALUES ('ses_1', 'usr_3', 'a/b')")
        )
        await connection.execute(
            text(
                "INSERT INTO prompts (id, session_id, position, author_id, text, status, fingerprint)"
                " VALUES ('prm_1', 'ses_1', 1, 'usr_3', 'kept', 'queued', 'x')"
            )
        )
    await migrate(empty_database_url)
    async with engine.begin() as connection:
        found = await connection.execute(text("SELECT id, email FROM users ORDER BY id"))
        assert [tuple(row) for row in found] == [
            ("usr_1", "sam@example.com"),
            ("usr_2", "sam+usr_2@example.com"),
            ("usr_3", "Sam+usr_3@Example.com"),
            ("usr_4", "kim@example.com"),
            ("usr_5", "no address"),
            ("usr_6", "no address+usr_6"),
        ]
        assert (await connection.execute(text("SELECT text FROM prompts"))).scalar() == "kept"
    with pytest.raises(IntegrityError, match="uq_users_email"):
        async with engine.begin() as connection:
            await connection.execute(
                add, {"i": "usr_7", "e": "KIM@example.com", "at": datetime(2026, 1, 7, tzinfo=UTC)}
            )
    await engine.dispose()
