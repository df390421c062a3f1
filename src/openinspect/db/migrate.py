"""Brings a database to this release's schema: everything in one transaction, under a lock, so that several processes may start at the same time.

A revision is a file in ``migrations/versions``, numbered in order; there is no way down, restore a backup instead. ``python -m
openinspect.db.migrate MESSAGE`` writes the next one from the difference between the tables and an embedded database that it starts for this.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.engine import create_engine, transaction
from openinspect.db.errors import DatabaseError, DatabaseUnavailable
from openinspect.db.job_tables import upgrade_job_tables

_LOCK = 0x4F50454E494E5350  # "OPENINSP"
_LOCK_SECONDS = 120.0


class DatabaseTooNew(DatabaseError):
    """The database was already brought to a later release's schema."""


async def migrate(database_url: str) -> None:
    """Bring the database to this release's schema; does nothing if it is there already.

    Raises DatabaseUnavailable, DatabaseTooNew. Waits up to 120 s for another process that is doing the same.
    """
    engine = create_engine(database_url, pool_size=1)
    try:
        async with transaction(engine) as connection:
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await _lock(connection)
            await connection.run_sync(_upgrade)
            await upgrade_job_tables(connection)
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while not (
        await connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})
    ).scalar():
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                "The database's schema cannot be brought up to date",
                f"another process has been doing so for more than {_LOCK_SECONDS:.0f} s",
                "Wait for it, or end it",
            )
        await asyncio.sleep(0.05)


def known_revisions() -> list[str]:
    """The revisions of the schema that this release can bring up to date."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    config = _config(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    try:
        newest = ScriptDirectory.from_config(config).get_current_head()
        if current is not None:
            ScriptDirectory.from_config(config).get_revision(current)
    except CommandError as error:
        raise DatabaseTooNew(
            "The database belongs to a later release",
            f"its schema is revision {current}, which this release does not know",
            "Install that release again, or restore a backup that this release wrote",
        ) from error
    if current != newest:
        command.upgrade(config, "head")


def _write_revision(connection: Connection, message: str) -> None:
    config = _config(connection)
    number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
    written = command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
    for script in filter(None, written if isinstance(written, list) else [written]):
        path = Path(script.path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.lstrip().startswith("# ###")))


async def _main(message: str) -> None:
    from openinspect.db.postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder), durable=False)
        url = await server.start()
        try:
            await migrate(url)
            engine = create_engine(url, pool_size=1)
            async with engine.begin() as connection:
                await connection.run_sync(_write_revision, message)
            await engine.dispose()
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
