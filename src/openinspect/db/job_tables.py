"""Procrastinate's own tables and functions: made from its schema, kept current by its migrations, both as shipped with the installed version.

Which of its migration files are in the database is written down in ``procrastinate_migrations``.
"""

from __future__ import annotations

from pathlib import Path
from typing import LiteralString, cast

from procrastinate.schema import SchemaManager
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def upgrade_job_tables(connection: AsyncConnection) -> None:
    """Bring them to the installed version, in the caller's transaction. The caller sees to it that nobody else does so now."""
    await connection.execute(
        text(
            "CREATE TABLE IF NOT EXISTS procrastinate_migrations (name text PRIMARY KEY, at timestamptz DEFAULT now())"
        )
    )
    present = (
        await connection.execute(text("SELECT to_regclass('procrastinate_jobs')"))
    ).scalar() is not None
    applied = set((await connection.execute(text("SELECT name FROM procrastinate_migrations"))).scalars())
    if not present:
        await _run(connection, SchemaManager.get_schema())
    for path in _migrations():
        if path.name in applied:
            continue
        if present:
            await _run(connection, path.read_text(encoding="utf-8"))
        await connection.execute(
            text("INSERT INTO procrastinate_migrations (name) VALUES (:name)"), {"name": path.name}
        )


def _migrations() -> list[Path]:
    return sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))


async def _run(connection: AsyncConnection, script: str) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    # Without parameters psycopg sends a script as it is: several statements, per cent signs and all.
    await driver.execute(cast(LiteralString, script))
