"""Fixtures that every test may use: the anyio backend, and a real Postgres.

``postgres_server``  one embedded Postgres for the whole run, in a temporary folder
``database_url``     a fresh database for the test module, a copy of a template that was migrated once; dropped afterwards
``engine``           a pool on ``database_url``, for one test
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.engine import conninfo, create_engine
from openinspect.db.migrate import migrate
from openinspect.db.postgres import EmbeddedPostgres

_TEMPLATE = "template_openinspect"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def _template(postgres_server: EmbeddedPostgres) -> str:
    """The migrated template database's name."""
    _administer(postgres_server.url, "CREATE DATABASE {}", _TEMPLATE)
    asyncio.run(migrate(on_database(postgres_server.url, _TEMPLATE)))
    return _TEMPLATE


@pytest.fixture(scope="module")
def database_url(postgres_server: EmbeddedPostgres, _template: str) -> Iterator[str]:
    with fresh_database(postgres_server.url, template=_template) as url:
        yield url


@pytest.fixture
def own_database_url(postgres_server: EmbeddedPostgres, _template: str) -> Iterator[str]:
    """Like ``database_url``, for one test: where it matters what other tests have left."""
    with fresh_database(postgres_server.url, template=_template) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A database without any table, for one test."""
    with fresh_database(postgres_server.url, template="template1") as url:
        yield url


@pytest.fixture
async def engine(anyio_backend: str, database_url: str) -> AsyncIterator[AsyncEngine]:
    pool = create_engine(database_url, pool_size=8)
    yield pool
    await pool.dispose()


@contextmanager
def fresh_database(server_url: str, *, template: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    _administer(server_url, "CREATE DATABASE {} TEMPLATE {}", name, template)
    try:
        yield on_database(server_url, name)
    finally:
        _administer(server_url, "DROP DATABASE {} WITH (FORCE)", name)


def on_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _administer(url: str, statement: str, *names: str) -> None:
    with psycopg.connect(conninfo(on_database(url, "postgres")), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))  # pyright: ignore[reportArgumentType]
