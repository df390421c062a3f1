"""``openinspect up``, ``down``, ``worker``, ``signin``, ``doctor`` and ``db …``."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from openinspect.problems import Conflict, Invalid, Unavailable
from openinspect.settings import Settings

from . import cursors
from .client import (
    Client,
    ServerRecord,
    folder_id,
    left_record,
    process_started,
    read_record,
    remove_record,
    write_record,
)
from .console import ARROW, ERROR, ask, client, error_console, out, settings
from .references import KEY_REMEDY
from .text import as_called, clean, program

db = typer.Typer(help="Back the database up, and bring a backup back.", no_args_is_help=True)

LOG_FILE = "server.log"
START_SECONDS = 90.0
DOWN_SECONDS = 90.0
ONCE = "works once, within 15 minutes"
_BACKUP_MARK = b"PGDMP"
"""How a file begins that ``pg_dump`` wrote in its own format."""
_LOG_BYTES = 20 * 1024 * 1024


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses one.", show_default="8910"),
    ] = None,
    detach: Annotated[bool, typer.Option(help="Run in the background; `openinspect down` ends it.")] = False,
    link: Annotated[
        bool,
        typer.Option(
            help="Print the link to sign in by; a service goes without, so that its log holds no secret."
        ),
    ] = True,
    jobs: Annotated[
        bool, typer.Option(help="Run jobs in this process; without, an `openinspect worker` has to.")
    ] = True,
) -> None:
    """Start the server, and print a link to sign in."""
    chosen = _with(settings(), host, port)
    running = read_record(chosen)
    if running is not None:
        if detach:
            _say_where(running)
            return
        raise Conflict(
            "server_running",
            f"A server runs on this data folder already: {running.url}",
            f"Sign in: {program()} signin, or end it: {program()} down",
        )
    if detach:
        _say_where(start_detached(host, port))
        return
    from openinspect import logs

    logs.configure(chosen.log_level)
    asyncio.run(_serve(chosen, jobs, link))


def _with(base: Settings, host: str | None, port: int | None) -> Settings:
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    return base.model_copy(update=given)


def _say_where(record: ServerRecord) -> None:
    api = Client(record.url, record.token, settings())
    out().print(f"Open-Inspect runs at {record.url}")
    out().print(f"Sign in: {signin_link(api)}")
    out().print(f"         ({ONCE}; `{program()} signin` prints another)")
    if api.get("/me")["server"]["scripted_model"]:
        out().print(
            f"Answers come from a scripted model: no provider's key is set. {KEY_REMEDY}", style="yellow"
        )


def signin_link(api: Client, to: str | None = None) -> str:
    """A link that signs this command's person in, once. ``to``: the path of the page that it leads to."""
    me = api.get("/me")["user"]["id"]
    url: str = api.post(f"/users/{me}/signin-link")["url"]
    return url if to is None else url.replace("#", f"?to={quote(to, safe='/')}#", 1)


async def _serve(chosen: Settings, jobs: bool, show_link: bool) -> None:
    from openinspect import app
    from openinspect.identity import credentials
    from openinspect.identity.people import User

    stop = asyncio.Event()
    orderly, impatient = asyncio.Event(), asyncio.Event()
    running: list[str] = []
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        (impatient if orderly.is_set() else orderly).set()
        stop.set()

    # Ctrl-C and `down` end the sandboxes as well; TERM, as service managers send it for a restart, leaves them running
    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    async def ready(wiring: app.Wiring, owner: User, port: int) -> None:
        async with wiring.engine.begin() as connection:
            secret = await credentials.renew_local_token(connection, owner.id, folder_id(chosen))
            link = (await credentials.make_signin_link(connection, owner.id))[0] if show_link else None
        write_record(chosen, f"http://{_reachable(chosen.host)}:{port}", secret)
        _welcome(wiring.settings, link)

    async def before_end(wiring: app.Wiring) -> None:
        if orderly.is_set():
            if sys.stdout.isatty():
                out().print(
                    "\nEnding the sandboxes, then the server … (Ctrl-C again does not wait for them)",
                    style="dim",
                )
            stopping = asyncio.create_task(
                wiring.services.keeper.stop_all("Stopped: the server was shut down; the files are kept.")
            )
            waiting = asyncio.create_task(impatient.wait())
            await asyncio.wait({stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if stopping.done():
                running.extend(stopping.result())
            else:
                stopping.cancel()
                await asyncio.gather(stopping, return_exceptions=True)

    await app.serve(chosen, stop, jobs=jobs, on_ready=ready, before_end=before_end)
    if running:
        raise Unavailable(
            "sandboxes_left",
            f"The server has ended, but {len(running)} of its sandboxes could not be stopped: {', '.join(running[:5])}.",
            "The lines above say why; the next server on this data folder looks after them: `openinspect up`",
        )
    # one that ended in any other way leaves its record: by that `down` knows
    mine = read_record(chosen)
    if mine is not None and mine.pid == os.getpid():
        remove_record(chosen)


def _welcome(chosen: Settings, link: str | None) -> None:
    console, base = out(), chosen.base_url
    scripted = "Answers come from a scripted model: no provider's key is set."
    if not console.is_terminal:
        # among the log's lines: one that can be found
        console.print(f"Open-Inspect runs at {base}")
        if link is not None:
            console.print(f"Sign in: {base}/signin#token={link}")
            console.print(f"         ({ONCE}; `{program()} signin` prints another)")
        if chosen.scripted_model_url:
            console.print(scripted)
        return
    console.print("\n  Open-Inspect is ready.\n", style="bold")
    if link is None:
        console.print(f"  {base} — `{program()} signin` prints a link to sign in by.\n")
    else:
        console.print(f"  Sign in:  {base}/signin#token={link}")
        console.print(f"            ({ONCE}; `{program()} signin` prints another)\n")
    if chosen.scripted_model_url:
        console.print(f"  {scripted}\n", style="yellow")
    console.print("  End it with Ctrl-C.\n")


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def start_detached(
    host: str | None = None, port: int | None = None, environment: dict[str, str] | None = None
) -> ServerRecord:
    """Start a server in the background and wait until it answers. Raises ``Unavailable`` with the last lines of its log."""
    chosen = settings()
    from openinspect.app import prepare_data_dir

    prepare_data_dir(chosen)
    log_path = chosen.data_dir / LOG_FILE
    if log_path.exists() and log_path.stat().st_size > _LOG_BYTES:
        log_path.replace(log_path.with_suffix(".log.1"))
    command = [sys.executable, "-m", "openinspect", "up", "--no-link"]
    command += ["--host", host] if host else []
    command += ["--port", str(port)] if port is not None else []
    with open(log_path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log_file:
        began = log_file.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            env={
                **os.environ,
                **(environment or {}),
                "OPENINSPECT_DATA_DIR": str(chosen.data_dir),
                "NO_COLOR": "1",
            },
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        record = read_record(chosen)
        if record is not None and record.pid == process.pid:
            return record
        if process.poll() is not None:
            break
        time.sleep(0.05)
    ended = process.poll() is not None
    if not ended:
        process.terminate()
    with log_path.open("rb") as log_file:
        log_file.seek(began)
        tail = log_file.read()[-2000:].decode(errors="replace").strip().splitlines()[-6:]
    raise _not_started(tail, log_path, ended=ended)


def _not_started(tail: list[str], log_path: Path, *, ended: bool) -> Unavailable:
    """Why a server in the background did not start: the error that it ended with, as it said it, or else the end of its log."""
    what = (
        "The server ended while it was starting"
        if ended
        else f"The server was not ready within {START_SECONDS:.0f} s"
    )
    lines = [line.strip() for line in tail]
    remedy = f"Read the whole log: less {log_path}"
    errors = [place for place, line in enumerate(lines) if line.startswith(ERROR)]
    if ended and errors:
        last = errors[-1]
        if lines[last + 1 :] and lines[last + 1].startswith(ARROW):
            remedy = lines[last + 1].removeprefix(ARROW)
        lines = [lines[last].removeprefix(ERROR)]
    return Unavailable("server_failed", what + (": " + " ".join(lines) if lines else "."), remedy)


def down() -> None:
    """End the server of this data folder, its database and its sandboxes. Files are kept. The exit code is 1 when it did not end in good order."""
    record = read_record(settings())
    if record is None:
        out().print("No server runs on this data folder.")
        return
    os.kill(record.pid, signal.SIGINT)
    deadline = time.monotonic() + DOWN_SECONDS
    with error_console().status("Ending the server and its sandboxes …"):
        while process_started(record.pid) == record.started:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "server_stays",
                    f"The server (process {record.pid}) did not end within {DOWN_SECONDS:.0f} s.",
                    f"Read its log: less {settings().data_dir / LOG_FILE}; end it: kill -9 {record.pid}",
                )
            time.sleep(0.05)
    if left_record(settings()) == record:
        raise Unavailable(
            "server_ended_badly",
            "The server has ended, but not in good order: sandboxes of it may still run.",
            f"What it said last tells why: less {settings().data_dir / LOG_FILE}, or the terminal or journal of `openinspect up`. "
            "The next server on this data folder looks after what was left: `openinspect up`",
        )
    out().print("Ended.")


def worker() -> None:
    """Run jobs beside a server, on the same data folder or database."""
    from openinspect import app, logs

    logs.configure(settings().log_level)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        error_console().print("The worker runs; end it with Ctrl-C.")
        await app.run_jobs(settings(), stop)

    asyncio.run(run())


def signin() -> None:
    """Print a new link to sign in by. It works once, within 15 minutes."""
    with client() as api:
        out().print(signin_link(api))


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """See what this machine can and can't do, and what to do about it. The exit code is 1 when something that is needed is missing."""
    from openinspect.doctor import run_checks

    running = read_record(settings())
    findings = asyncio.run(run_checks(settings(), server=running.pid if running else None))
    if as_json:
        out().print_json(json.dumps([finding.model_dump() for finding in findings]))
    else:
        marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
        for finding in findings:
            out().print(
                Text.assemble(marks[finding.state], " ", (finding.name, "bold"), "  ", clean(finding.detail))
            )
            if finding.remedy:
                out().print(f"    → {as_called(clean(finding.remedy))}")
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


# ── openinspect db … ──────────────────────────────────────────────────────────────────────────────
@db.command()
def backup(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Where to write it.", show_default="backups/openinspect-DATE.backup in the data folder"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
) -> None:
    """Write the whole database to one file. The server may be running."""
    from openinspect.app import database_at_rest
    from openinspect.db.backup import backup as write_backup

    _quiet()
    chosen = settings()
    _has_database(chosen)
    if file is None:
        folder = chosen.data_dir / "backups"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / f"openinspect-{datetime.now(UTC):%Y%m%d-%H%M%S}.backup"
    if file.exists() and not force:
        raise Conflict(
            "file_exists", f"{file} is there already.", "Name another file, or replace it by --force."
        )
    target = file

    async def run() -> None:
        async with database_at_rest(chosen) as url:
            await write_backup(url, target)

    asyncio.run(run())
    out().print(f"Written: {target.absolute()} ({target.stat().st_size / 1024**2:.1f} MiB)")
    error_console().print(
        f"Attachments, repositories and sandboxes' files are in {chosen.data_dir}: back that folder up as well.",
        style="dim",
    )


def _quiet() -> None:
    """What the server would log is no part of a command's answer."""
    from openinspect import logs

    logs.configure("warning")


def _has_database(chosen: Settings) -> None:
    """Raises ``Unavailable`` where none was ever made: one would be made now, and be empty."""
    if chosen.database_url is None and not (chosen.data_dir / "postgres").is_dir():
        raise Unavailable(
            "no_database",
            f"There is no database in the data folder {chosen.data_dir}.",
            "Name the right folder: export OPENINSPECT_DATA_DIR=…",
        )


def _name_a_backup() -> str:
    folder = settings().data_dir / "backups"
    where = f": ls {shlex.quote(str(folder))}" if folder.is_dir() else "."
    return f"Name a file that `{program()} db backup` wrote{where}"


@db.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `db backup` wrote.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Replace the database by a backup. The server must not be running."""
    from openinspect.app import database_at_rest
    from openinspect.db.backup import restore as read_backup

    if read_record(settings()) is not None:
        raise Conflict("server_running", "The server is running.", f"End it first: {program()} down")
    if not file.is_file():
        raise Unavailable("file_missing", f"There is no file {file}.", _name_a_backup())
    try:
        with file.open("rb") as content:
            begins = content.read(len(_BACKUP_MARK))
    except OSError as error:
        raise Unavailable(
            "file_unreadable",
            f"{file} can't be read: {error.strerror}.",
            f"See whose it is: ls -l {shlex.quote(str(file))}",
        ) from error
    if begins != _BACKUP_MARK:
        raise Invalid("no_backup", f"{file} is no backup that `db backup` wrote.", _name_a_backup())
    _quiet()
    if not yes:
        ask(f"Replace the whole database by {file}?")

    async def run() -> None:
        async with database_at_rest(settings()) as url:
            await read_backup(url, file)

    asyncio.run(run())
    cursors.forget(settings().data_dir)
    out().print("Restored.")
