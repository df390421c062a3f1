"""Connections to the database: a pool for ordinary work, single ones for LISTEN and for the log's batches.

Any ``postgresql://`` address will do (also ``postgres://`` and ``postgresql+psycopg://``), with libpq's parameters after the question mark.
Connecting takes 5 s at most, a statement 30 s, a wait for a row lock 10 s, and a transaction that nobody goes on with is cut after 60 s.
Nothing here tries again by itself: a lost database is ``DatabaseUnavailable``, and what to repeat is the caller's to know.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import psycopg
import sqlalchemy.exc
from psycopg.conninfo import make_conninfo
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from openinspect.db.errors import DatabaseAddressInvalid, DatabaseRefused, DatabaseUnavailable

CONNECT_SECONDS = 5
# libpq keeps the SQLSTATE of a connection that was refused to itself: its words are all there is
_ANSWERED = "FATAL:"
_NO_PASSWORD = "no password supplied"
_REMEDY = "Check what OPENINSPECT_DATABASE_URL names; Postgres's own log says more"
_REMEDIES = (
    (
        _NO_PASSWORD,
        "Put it into OPENINSPECT_DATABASE_URL, as in postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters written as %XX",
    ),
    (
        "password authentication failed",
        "Correct the user and the password in OPENINSPECT_DATABASE_URL, with special characters written as %XX",
    ),
    ("pg_hba.conf", "Let this machine and user in by a line in Postgres's pg_hba.conf"),
    ('role "', "Correct the user in OPENINSPECT_DATABASE_URL, or make it: createuser"),
    ('database "', "Correct the database in OPENINSPECT_DATABASE_URL, or make it: createdb"),
    ("starting up", "Wait until Postgres has started"),
    (
        "too many",
        "Give Postgres more connections (max_connections), or the server fewer: OPENINSPECT_DATABASE_POOL_SIZE",
    ),
)
_POOL_WAIT_SECONDS = 10
_SERVER_TIMEOUTS = (
    "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
)
_LIVENESS = {
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


def parse_url(database_url: str) -> URL:
    """The address with our driver and our bounds added. Raises DatabaseAddressInvalid, which does not repeat the address."""
    defaults = {
        "connect_timeout": str(CONNECT_SECONDS),
        "options": _SERVER_TIMEOUTS,
        "application_name": "openinspect",
    }
    try:
        url = make_url(database_url)
        if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
            url = url.set(drivername="postgresql+psycopg", query={**_LIVENESS, **defaults, **url.query})
            _as_conninfo(url)  # refuses parameters that libpq does not know
            return url
    except (sqlalchemy.exc.ArgumentError, ValueError, psycopg.ProgrammingError):
        pass  # told below without the cause, whose text may repeat the address and its password
    raise DatabaseAddressInvalid(
        "The database address cannot be read",
        "it is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE",
        "Correct OPENINSPECT_DATABASE_URL, with special characters in the password written as %XX",
    )


def conninfo(database_url: str) -> str:
    """The same address as libpq and psycopg read it. It may hold a password: never log it, never put it in argv."""
    return _as_conninfo(parse_url(database_url))


def _as_conninfo(url: URL) -> str:
    address = url.translate_connect_args(username="user", database="dbname")
    parameters = {
        name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()
    }
    return make_conninfo(**{**address, **parameters})


def create_engine(database_url: str, *, pool_size: int = 12) -> AsyncEngine:
    """A pool of at most ``pool_size`` connections, made when they are needed; a dead one is replaced unseen."""
    engine = create_async_engine(
        parse_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_SECONDS,
        pool_use_lifo=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,  # prompts and secrets' ciphertexts stay out of error texts
    )
    event.listen(engine.sync_engine, "checkout", _still_open)
    return engine


def for_reading(engine: AsyncEngine) -> AsyncEngine:
    """The same pool, each statement by itself: for reads and single writes, which so need no round trips for BEGIN and COMMIT."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _still_open(connection: Any, _record: Any, _proxy: Any) -> None:
    """Replace a connection that the server has closed while it lay in the pool: such a one is readable. Costs no round trip, as a ping would."""
    poll = select.poll()
    poll.register(connection.driver_connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    if poll.poll(0):
        raise sqlalchemy.exc.DisconnectionError


@contextlib.asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction: committed at the end, rolled back on an error. Raises DatabaseUnavailable if the database is lost before or in it.

    If it is lost during the commit, the error leaves open whether it was committed.
    """
    with _losses_explained():
        async with engine.begin() as connection:
            yield connection


async def raw_connection(database_url: str, *, autocommit: bool = True) -> psycopg.AsyncConnection[Any]:
    """A connection of psycopg's own, outside the pool: for LISTEN and for the log's batch append. The caller closes it."""
    with _losses_explained():
        return await psycopg.AsyncConnection.connect(conninfo(database_url), autocommit=autocommit)


async def check(engine: AsyncEngine) -> None:
    """Ask the database for a sign of life. Raises DatabaseUnavailable."""
    async with transaction(engine) as connection:
        await connection.exec_driver_sql("SELECT 1")


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """What a person is told about a lost database."""
    reason = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    for line in lines:
        if _NO_PASSWORD in line:
            return _refused("it asks for a password, and the address has none", line)
        if _ANSWERED in line:
            return _refused(line.partition(_ANSWERED)[2].strip().rstrip("."), line)
    return DatabaseUnavailable(
        "The database does not answer",
        (lines[0].rstrip(".") if lines else type(reason).__name__),
        "Check that Postgres runs and that OPENINSPECT_DATABASE_URL names it",
    )


def _refused(why: str, line: str) -> DatabaseRefused:
    remedy = next((remedy for words, remedy in _REMEDIES if words in line), _REMEDY)
    return DatabaseRefused("The database refuses the connection", why, remedy)


def is_lost(error: BaseException) -> bool:
    """Whether this error says that the connection was lost or could not be made, not that a statement was wrong."""
    if isinstance(error, sqlalchemy.exc.TimeoutError | DatabaseUnavailable):
        return True
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_lost(error.orig))
    if isinstance(error, psycopg.InterfaceError):
        return True
    # With an SQLSTATE it is an answer of the server: only those of class 08 (connection), 57P (shutting down) and 53 (no room) are losses.
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "53"))
    )


@contextlib.contextmanager
def _losses_explained() -> Iterator[None]:
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error) as error:
        if is_lost(error):
            raise unavailable(error) from error
        raise
