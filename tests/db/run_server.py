"""A server in a process of its own: ``run_server.py FOLDER [hold]`` starts Postgres, prints one JSON line, and holds it or stops it again."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psycopg
import structlog

from openinspect.db.errors import DatabaseError
from openinspect.db.postgres import EmbeddedPostgres


async def main(folder: str, *how: str) -> None:
    server = EmbeddedPostgres(Path(folder))
    try:
        url = await server.start()
    except DatabaseError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
        return
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        await connection.execute("INSERT INTO kept VALUES (1)")
        row = await (await connection.execute("SELECT count(*) FROM kept")).fetchone()
    print(json.dumps({"pid": server.pid, "url": url, "rows": row[0] if row else None}), flush=True)
    if how == ("hold",):
        await asyncio.sleep(600)
    await server.stop()


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main(*sys.argv[1:]))
