"""The embedded Postgres: started, watched and stopped by the server that owns its folder.

    stopped ──start()──▶ running ──dies──▶ restarting (watch(), backoff 0.1 s to 5 s) ──▶ running ──stop()──▶ stopped

It listens on a unix socket in a folder that only its own user may enter, asks for a password (scram-sha-256) all the same, writes through to the
disk (fsync), and stops when the thread that started it ends, also by kill -9 of the server. As root it runs under an unprivileged user id of its
own that has no account; as an ordinary user it runs as that user. See ``folder`` for the files and ``_launch`` for how it is started.

Deadlines: first start 60 s for ``initdb``; 120 s until it answers (recovery after a crash is part of that); 15 s for an earlier one's processes
to be gone, the last five of them not voluntarily; 10 s to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import anyio
import psycopg
import structlog
from psycopg import sql

from openinspect.db.binaries import find_binaries
from openinspect.db.errors import DatabaseError, EmbeddedPostgresFailed
from openinspect.db.folder import DATABASE, ROLE, Folder, disk_full, explain, explained

DEFAULT_UID = 1_899_999_999  # just below the range of the sandboxes; nobody's account

_INITDB_SECONDS = 60.0
_READY_SECONDS = 120.0
_LEFTOVER_SECONDS = 15.0
_STOP_SECONDS = 10.0
_STEADY_SECONDS = 30.0  # after so long without dying, the next restart is prompt again
_LOG_CHECK_SECONDS = 60.0

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_directories": "../run",  # relative to the data folder, thus short at any depth
    "unix_socket_permissions": "0700",
    "dynamic_shared_memory_type": "mmap",  # nothing in /dev/shm
    "shared_buffers": "64MB",
    "max_connections": "60",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "2",
    "io_method": "sync",  # no extra processes for a small database
    "jit": "off",
    "huge_pages": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_error_statement": "panic",  # statements hold people's prompts
    "log_line_prefix": "%m [%p] ",
}

_COMPLAINT = re.compile(r"((FATAL|PANIC|HINT|initdb: error): |cannot start Postgres: ).*")

log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One Postgres on one folder. Start it from a thread that lives as long as the server: it stops when that thread ends.

    ``durable=False`` turns fsync off, for tests only. ``on_change`` is told each time the state changes, in words.
    """

    def __init__(
        self,
        folder: Path,
        *,
        uid: int = DEFAULT_UID,
        durable: bool = True,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = Folder(folder, uid)
        self._durable = durable
        self._on_change = on_change
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self.restarts = 0
        self.problem: DatabaseError | None = None  # why it does not run at the moment

    @property
    def pid(self) -> int | None:
        """Process id of the main process while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def url(self) -> str:
        """``postgresql://`` address for this process and programs that it starts. It holds no password but names a file that only we can read."""
        return self._folder.url()

    async def start(self) -> str:
        """Start, initialise first if the folder is new, and return the address. Does nothing while it runs.

        Raises DatabaseFolderInUse, DatabaseFolderUnusable, DatabaseDiskFull or EmbeddedPostgresFailed.
        """
        if self.pid is not None:
            return self.url
        self._stopping = False
        try:
            self._folder.prepare()
            with explained(self._folder.path):
                await self._launch()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._end()
            self._folder.release()
            raise
        self._tell("running")
        return self.url

    async def stop(self) -> None:
        """Stop it in an orderly way and give the folder free. Connections that are still open are cut."""
        self._stopping = True
        with anyio.CancelScope(shield=True):
            await self._end()
        self._folder.release()
        self._tell("stopped")

    async def watch(self) -> None:
        """Start it again whenever it dies, until ``stop`` or cancellation. Never gives up; ``problem`` says why it does not run."""
        pause, steady_since = 0.1, time.monotonic()
        while not self._stopping:
            if self._process is not None:
                await self._exited(self._process, _LOG_CHECK_SECONDS)
                if self._stopping:
                    return
                if self.pid is not None:
                    self._bound_log()
                    continue
                log.warning("postgres died", exit_code=self._process.poll())
                self._tell("restarting")
                if time.monotonic() - steady_since > _STEADY_SECONDS:
                    pause = 0.1
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
            try:
                with explained(self._folder.path):
                    await self._launch()
            except DatabaseError as error:
                self.problem = error
                log.error(
                    "postgres does not start, it is tried again",
                    what=error.what,
                    why=error.why,
                    remedy=error.remedy,
                )
                await self._end()
                self._process = None
                continue
            self.problem = None
            self.restarts += 1
            steady_since = time.monotonic()
            self._tell("running")

    # ── starting ──────────────────────────────────────────────────────────────────────────────────
    async def _launch(self) -> None:
        claim = await self._claim_processes()
        try:
            if not self._folder.data.exists():
                await self._initialise(claim)
            settings = {**_SETTINGS, "fsync": "on" if self._durable else "off"}
            arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            mark = self._log_size()
            self._process = self._spawn("postgres", arguments, self._folder.data, claim)
        finally:
            os.close(claim)
        await self._until_ready(self._process, mark)

    async def _claim_processes(self) -> int:
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while (claim := self._folder.try_claim_processes()) is None:
            left = deadline - time.monotonic()
            # Those of a killed server stop by themselves; those of a killed main process may be in the middle of a long query.
            if left < 5 or (self._process is not None and self.pid is None):
                for pid in self._folder.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if left < 0:
                raise EmbeddedPostgresFailed(
                    "Postgres cannot start",
                    f"processes of an earlier one still hold {self._folder.path}",
                    "End the processes named `postgres` that work in this folder, then start again",
                )
            await asyncio.sleep(0.02)
        return claim

    async def _initialise(self, claim: int) -> None:
        """Make the database cluster beside its final place, so that a half-made one is never taken for a whole one."""
        folder = self._folder
        folder.own(folder.fresh)
        mark = self._log_size()
        with folder.password_for_initdb() as password:
            arguments = [
                f"--pwfile={password}",
                f"--username={ROLE}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
            ]
            arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            arguments += ["--no-instructions", *([] if self._durable else ["--no-sync"])]
            process = self._spawn("initdb", arguments, folder.fresh, claim)
            try:
                if not await self._exited(process, _INITDB_SECONDS):
                    raise self._failure(
                        "Postgres could not be initialised", mark, f"not done in {_INITDB_SECONDS:.0f} s"
                    )
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if process.returncode != 0:
            raise self._failure("Postgres could not be initialised", mark)
        folder.fresh.rename(folder.data)
        descriptor = os.open(folder.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _spawn(self, program: str, arguments: list[str], data: Path, claim: int) -> subprocess.Popen[bytes]:
        binaries = find_binaries()
        spec = {
            "program": program,
            "arguments": arguments,
            "install": str(binaries.install),
            "libraries": str(binaries.libraries),
            "data": str(data),
            "run": str(self._folder.run),
            "uid": self._folder.uid,
            "parent": os.getpid(),
        }
        output = self._folder.open_log()
        try:
            # In this thread on purpose, see the class: the kernel ties the parent-death signal to it.
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("_launch.py")), json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(claim,),
                start_new_session=True,  # Ctrl-C in the terminal is the server's to handle
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},  # none of the server's secrets
                cwd="/",
            )
        finally:
            os.close(output)

    async def _until_ready(self, process: subprocess.Popen[bytes], mark: int) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            if process.poll() is not None:
                raise self._failure("Postgres did not start", mark)
            try:
                await self._create_database()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or isinstance(
                    error, psycopg.errors.InvalidAuthorizationSpecification
                ):
                    raise self._failure(
                        "Postgres started but cannot be used", mark, str(error).strip()
                    ) from error
            await asyncio.sleep(0.01)

    async def _create_database(self) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(self.url, connect_timeout=5):
                return
        except psycopg.OperationalError as error:
            # The code of "database does not exist" reaches us in the text only.
            if f'database "{DATABASE}" does not exist' not in str(error):
                raise
        async with await psycopg.AsyncConnection.connect(
            self.url, dbname="postgres", connect_timeout=5, autocommit=True
        ) as connection:
            create: LiteralString = "CREATE DATABASE {}"
            await connection.execute(sql.SQL(create).format(sql.Identifier(DATABASE)))

    # ── ending ────────────────────────────────────────────────────────────────────────────────────
    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        for how, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0)):
            if process.poll() is not None:
                break
            process.send_signal(how)
            await self._exited(process, seconds)
        self._process = None

    async def _exited(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Wait until the process has ended, at most ``seconds``."""
        if process.poll() is not None:
            return True
        descriptor = os.pidfd_open(process.pid)
        try:
            with anyio.move_on_after(seconds):
                await anyio.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return process.poll() is not None

    # ── telling ───────────────────────────────────────────────────────────────────────────────────
    def _log_size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._folder.log.stat().st_size
        return 0

    def _bound_log(self) -> None:
        try:
            self._folder.bound_log()
        except OSError as error:
            log.warning("postgres.log could not be shortened", error=error.strerror)

    def _failure(self, what: str, mark: int, why: str | None = None) -> DatabaseError:
        """The error with the last words of the log since ``mark``."""
        try:
            with self._folder.log.open("rb") as file:
                file.seek(mark)
                text = file.read(64_000).decode(errors="replace")
        except OSError as error:
            return explain(error, self._folder.path)
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return disk_full(self._folder.path)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        complaints = [found[0] for line in lines if (found := _COMPLAINT.search(line))]
        last = (complaints or lines)[-3:]
        why = why or "; ".join(last) or "it ended without a word"
        return EmbeddedPostgresFailed(
            what, why, f"See {self._folder.log}; `openinspect doctor` checks this machine"
        )

    def _tell(self, state: str) -> None:
        log.info("postgres", state=state)
        if self._on_change is not None:
            self._on_change(state)
