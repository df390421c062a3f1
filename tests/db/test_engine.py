"""Connections: every form of address, and what is said when the database is away."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy.exc
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.engine import check, conninfo, create_engine, parse_url, raw_connection, transaction
from openinspect.db.errors import DatabaseAddressInvalid, DatabaseRefused, DatabaseUnavailable
from openinspect.db.postgres import EmbeddedPostgres

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_addresses_that_people_write(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:p%40ss@db.example:6543/inspect?sslmode=require")
    assert (url.drivername, url.password, url.port) == ("postgresql+psycopg", "p@ss", 6543)
    parameters = conninfo_to_dict(conninfo(url.render_as_string(hide_password=False)))
    assert parameters["password"] == "p@ss" and parameters["sslmode"] == "require"
    assert parameters["connect_timeout"] == "5"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "db.example",
        "mysql://me:secret@h/d",
        "postgresql://me:secret@h/d?colour=red",
        "postgresql://me:secret@h:port/d",
    ],
)
def test_an_address_that_cannot_be_read_is_not_repeated(address: str) -> None:
    with pytest.raises(DatabaseAddressInvalid, match="OPENINSPECT_DATABASE_URL") as caught:
        create_engine(address)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("user", "database", "parameters", "why", "remedy"),
    [
        ("openinspect:hunter22", "openinspect", "", "password authentication failed", "the password in"),
        ("openinspect", "openinspect", "&passfile=/nowhere", "asks for a password", "USER:PASSWORD@HOST"),
        ("nobody:hunter22", "openinspect", "", "failed for user", "Correct the user"),
        ("", "nowhere", None, 'database "nowhere" does not exist', "createdb"),
    ],
)
async def test_a_refusal_is_no_silence(
    postgres_server: EmbeddedPostgres, user: str, database: str, parameters: str | None, why: str, remedy: str
) -> None:
    url = make_url(postgres_server.url).set(database=database).render_as_string(hide_password=False)
    if parameters is not None:
        url = f"postgresql://{user}@/{database}?host={quote(str(make_url(url).query['host']), safe='')}{parameters}"
    engine = create_engine(url)
    with pytest.raises(DatabaseRefused) as caught:
        await check(engine)
    await engine.dispose()
    assert caught.value.what == "The database refuses the connection"
    assert why in caught.value.why
    assert remedy in caught.value.remedy
    assert "hunter22" not in str(caught.value)


async def test_a_transaction_is_whole_or_nothing(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE ledger (n int UNIQUE)"))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        async with transaction(engine) as connection:
            await connection.execute(text("INSERT INTO ledger VALUES (1)"))
            await connection.execute(text("INSERT INTO ledger VALUES (1)"))
    async with transaction(engine) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM ledger"))).scalar() == 0
        bounds = await connection.execute(
            text("SELECT current_setting('statement_timeout'), current_setting('timezone')")
        )
        assert bounds.one() == ("30s", "UTC")


async def test_errors_do_not_repeat_what_was_written(engine: AsyncEngine) -> None:
    with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT CAST(:prompt AS int) + 1 / 0"), {"prompt": "7"})
    assert "'7'" not in str(caught.value)


async def test_a_port_that_nobody_listens_on() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = create_engine(f"postgresql://me:secret@127.0.0.1:{port}/inspect")
    with pytest.raises(DatabaseUnavailable, match="Check that Postgres runs") as caught:
        await check(engine)
    assert "secret" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable):
        await raw_connection(f"postgresql://me:secret@127.0.0.1:{port}/inspect")
    await engine.dispose()


async def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time() -> None:
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    engine = create_engine(
        f"postgresql://me:secret@127.0.0.1:{silent.sockets[0].getsockname()[1]}/inspect?connect_timeout=2"
    )
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await check(engine)
    assert time.monotonic() - began < 5
    await engine.dispose()
    silent.close()


async def test_a_pool_that_is_used_up_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openinspect.db.engine._POOL_WAIT_SECONDS", 0.2)
    engine = create_engine(database_url, pool_size=1)
    async with transaction(engine):
        with pytest.raises(DatabaseUnavailable):
            await check(engine)
    await check(engine)
    await engine.dispose()


async def test_a_pool_goes_on_after_postgres_was_killed(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    engine = create_engine(await server.start())
    watching = asyncio.create_task(server.watch())
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT 1"))
    with pytest.raises(DatabaseUnavailable):
        async with transaction(engine) as connection:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            while True:
                await connection.execute(text("SELECT 1"))
                await asyncio.sleep(0.01)
    deadline = time.monotonic() + 10
    while True:
        try:
            await check(engine)
            break
        except DatabaseUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    await engine.dispose()
    await server.stop()
    await watching
