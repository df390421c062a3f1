"""``openinspect up``, ``down``, ``worker``, ``signin``, ``doctor`` and ``db …``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from openinspect.problems import Conflict, Unavailable
from openinspect.settings import Settings

from .client import Client, ServerRecord, process_started, read_record, remove_record, write_record
from .console import ask, client, error_console, out, settings

db = typer.Typer(help="Back the database up, and bring a backup back.", no_args_is_help=True)

LOG_FILE = "server.log"
START_SECONDS = 90.0
DOWN_SECONDS = 90.0
_LOG_BYTES = 20 * 1024 * 1024


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 chooses one.", show_default="8910")
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
            "Sign in with `openinspect signin`, or end it with `openinspect down`.",
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
    out().print(f"Open-Inspect runs at {record.url}", markup=False)
    out().print(f"Sign in: {signin_link(Client(record.url, record.token))}", markup=False, soft_wrap=True)


def signin_link(api: Client) -> str:
    me = api.get("/me")["user"]["id"]
    return api.post(f"/users/{me}/signin-link")["url"]


async def _serve(chosen: Settings, jobs: bool, show_link: bool) -> None:
    from openinspect import app
    from openinspect.identity import credentials
    from openinspect.identity.people import User

    stop = asyncio.Event()
    orderly = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        orderly.set()
        stop.set()

    # Ctrl-C and `down` end the sandboxes as well; TERM, as service managers send it for a restart, leaves them running
    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    async def ready(wiring: app.Wiring, owner: User, port: int) -> None:
        async with wiring.engine.begin() as connection:
            secret = await credentials.renew_local_token(connection, owner.id)
            link = (await credentials.make_signin_link(connection, owner.id))[0] if show_link else None
        write_record(chosen, f"http://{_reachable(chosen.host)}:{port}", secret)
        base = wiring.settings.base_url
        console = out()
        console.print("\n  [bold]Open-Inspect[/bold] is ready.\n")
        if link is None:
            console.print(
                f"  {base} — `openinspect signin` prints a link to sign in by.\n",
                markup=False,
                soft_wrap=True,
            )
        else:
            console.print(f"  Sign in:  {base}/signin#token={link}", markup=False, soft_wrap=True)
            console.print(
                "            (works once, within 15 minutes; `openinspect signin` prints another)\n",
                markup=False,
            )
        if wiring.settings.scripted_model_url:
            console.print(
                "  [yellow]Answers come from a scripted model: no provider's key is set.[/yellow]\n"
            )
        console.print("  End it with Ctrl-C.\n")

    async def before_end(wiring: app.Wiring) -> None:
        if orderly.is_set():
            await wiring.services.keeper.stop_all("Stopped: the server was shut down; the files are kept.")

    try:
        await app.serve(chosen, stop, jobs=jobs, on_ready=ready, before_end=before_end)
    finally:
        mine = read_record(chosen)
        if mine is not None and mine.pid == os.getpid():
            remove_record(chosen)


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
    with log_path.open("ab") as log_file:
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
    raise Unavailable(
        "server_failed",
        (
            "The server ended while it was starting"
            if ended
            else f"The server was not ready within {START_SECONDS:.0f} s"
        )
        + (": " + " ".join(line.strip() for line in tail) if tail else "."),
        f"The whole log: {log_path}",
    )


def down() -> None:
    """End the server of this data folder, its database and its sandboxes. Files are kept."""
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
                    f"Look at {settings().data_dir / LOG_FILE}; end it with `kill -9 {record.pid}`.",
                )
            time.sleep(0.05)
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
        out().print(signin_link(api), markup=False, soft_wrap=True)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """See what this machine can and can't do, and what to do about it. The exit code is 1 when something that is needed is missing."""
    from openinspect.doctor import run_checks

    findings = asyncio.run(run_checks(settings()))
    if as_json:
        out().print_json(json.dumps([finding.model_dump() for finding in findings]))
    else:
        marks = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}
        for finding in findings:
            out().print(f"{marks[finding.state]} [bold]{finding.name}[/bold]  ", end="")
            out().print(finding.detail, markup=False, soft_wrap=True)
            if finding.remedy:
                out().print(f"    → {finding.remedy}", markup=False, soft_wrap=True)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


# ── openinspect db … ──────────────────────────────────────────────────────────────────────────────
@db.command()
def backup(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write it.", show_default="openinspect-DATE.backup")
    ] = None,
) -> None:
    """Write the whole database to one file. The server may be running."""
    from openinspect.app import database_at_rest
    from openinspect.db.backup import backup as write_backup

    target = file or Path(f"openinspect-{datetime.now(UTC):%Y%m%d-%H%M%S}.backup")

    async def run() -> None:
        async with database_at_rest(settings()) as url:
            await write_backup(url, target)

    asyncio.run(run())
    out().print(f"Written: {target} ({target.stat().st_size / 1024**2:.1f} MiB)", markup=False)
    error_console().print(
        f"[dim]Attachments, repositories and sandboxes' files are in {settings().data_dir}: back that folder up as well.[/dim]"
    )


@db.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `db backup` wrote.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Replace the database by a backup. The server must not be running."""
    from openinspect.app import database_at_rest
    from openinspect.db.backup import restore as read_backup

    if read_record(settings()) is not None:
        raise Conflict("server_running", "The server is running.", "End it first: openinspect down")
    if not file.is_file():
        raise Unavailable(
            "file_missing", f"There is no file {file}.", "Name a file that `openinspect db backup` wrote."
        )
    if not yes:
        ask(f"Replace the whole database by {file}?")

    async def run() -> None:
        async with database_at_rest(settings()) as url:
            await read_backup(url, file)

    asyncio.run(run())
    out().print("Restored.")
