"""The one place where the parts are wired together.

``wire`` makes them for a database that is there; ``serve`` runs a whole server (embedded Postgres unless an address is set, migrations, the
page, the door, jobs) until it is told to stop; ``work`` runs a worker beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp

from openinspect.api.app import create_app as create_page
from openinspect.api.services import Services
from openinspect.blobs.store import BlobStore
from openinspect.db.engine import create_engine, for_reading, is_lost, raw_connection
from openinspect.db.errors import DatabaseFolderInUse
from openinspect.db.migrate import migrate
from openinspect.db.postgres import EmbeddedPostgres
from openinspect.forges.local.forge import LocalForge
from openinspect.gateway import app as gateway
from openinspect.gateway.bridge import Bridge
from openinspect.gateway.doors import Doors
from openinspect.identity import people
from openinspect.jobs import Jobs, run_worker
from openinspect.live.hub import DELETED, Hub
from openinspect.live.notices import Notices
from openinspect.live.presence import REPEAT_SECONDS, PresenceBoard
from openinspect.models import prices
from openinspect.models.availability import usable_default
from openinspect.models.catalogue import agent_providers, find, small_model
from openinspect.problems import Invalid, Unavailable
from openinspect.protocol.config import AgentConfig
from openinspect.sandboxes.local.provider import LocalProvider
from openinspect.sandboxes.provider import SandboxProvider
from openinspect.serving import listen_door, listen_tcp, run
from openinspect.sessions import log as session_log
from openinspect.sessions import turns, work
from openinspect.sessions.instructions import INSTRUCTIONS
from openinspect.sessions.janitor import Janitor
from openinspect.sessions.keeper import Keeper
from openinspect.sessions.log import Journal, Logged
from openinspect.settings import Settings

log = structlog.get_logger()


class Later:
    """Small things to do in a moment. They only hurry: what is lost with the process, the sweep finds."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._run(seconds, action))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(seconds)
        try:
            await action()
        except Exception as error:
            log.warning("app.later_failed", error=f"{type(error).__name__}: {error}")

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(frozen=True)
class Wiring:
    """The parts of one process."""

    settings: Settings
    database_url: str
    engine: AsyncEngine
    services: Services
    notices: Notices
    jobs: Jobs
    page: ASGIApp
    door: ASGIApp
    doors: Doors
    later: Later

    async def background(self) -> None:
        """What runs beside the web servers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for helper in (
                self.notices.run,
                self.services.bridge.checkpoint,
                self._repeat_presence,
                self._catch_up,
                self._warm,
            ):
                group.create_task(_keep_up(helper))

    async def work(self) -> None:
        """Run jobs, until cancelled."""
        await run_worker(self.jobs, self.database_url)

    async def _warm(self) -> None:
        """What takes a second to import or read, before the first agent waits for it."""
        await asyncio.to_thread(prices.warm)
        await self.doors.tools.warm()

    async def _repeat_presence(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            self.services.presence.repeat()

    async def _catch_up(self) -> None:
        """A notice may be lost with a connection: look at the heads of what is watched now and then."""
        while True:
            await asyncio.sleep(2.0)
            watched = self.services.hub.watched()
            if not watched:
                continue
            async with self.services.reader.connect() as connection:
                found = await connection.exec_driver_sql(
                    "SELECT id, head FROM sessions WHERE id = ANY(%(ids)s) AND status <> 'deleting'",
                    {"ids": watched},
                )
                heads = {row.id: row.head for row in found}
            for session_id in watched:
                self.services.hub.moved(session_id, heads.get(session_id, DELETED))

    async def aclose(self) -> None:
        await self.later.aclose()
        await self.doors.aclose()
        await self.engine.dispose()


async def _keep_up(helper: Callable[[], Awaitable[None]]) -> None:
    """A helper that breaks is begun again, until it ends by itself: no defect in one of them may end the server."""
    while True:
        try:
            return await helper()
        except Exception as error:
            if not is_lost(error):
                log.exception("app.helper_failed", helper=helper.__name__)
        await asyncio.sleep(1.0)


def agent_config(settings: Settings) -> AgentConfig:
    default = find(settings.default_model)
    return AgentConfig(
        providers=agent_providers(),
        default_model=default.id,
        small_model=small_model(default).id,
        instructions=INSTRUCTIONS,
        question_seconds=settings.question_seconds,
    )


def wire(settings: Settings, database_url: str, provider: SandboxProvider | None = None) -> Wiring:
    """Make the parts. Nothing is started yet."""
    engine = create_engine(database_url, pool_size=settings.database_pool_size)
    reader = for_reading(engine)

    async def read(session_id: str, after: int, limit: int) -> list[Logged]:
        async with reader.connect() as connection:
            return await session_log.read_after(connection, session_id, after, limit)

    async def read_head(session_id: str) -> int:
        async with reader.connect() as connection:
            return await session_log.head(connection, session_id)

    notices = Notices(lambda: raw_connection(database_url))
    hub = Hub(read, read_head)
    hub.on_appended = notices.tell_head
    journal = Journal(engine, publish=hub.publish, want=work.want_sandbox)
    blobs = BlobStore(settings.data_dir / "blobs")
    forge = LocalForge(engine, settings.data_dir)
    provider = provider or LocalProvider(settings)
    keeper = Keeper(journal, provider, settings, agent_config(settings))
    janitor = Janitor(journal, provider, settings, blobs)
    bridge = Bridge(journal, hub, settings)
    journal.command = bridge.hand
    later = Later()
    defer = work.deferrer(keeper)
    # a sandbox whose connection ends may have died, and is looked at once its process has had the time to be gone
    bridge.on_disconnect = lambda sandbox_id: later.call(0.5, lambda: defer("sandbox.check", sandbox_id))
    presence = PresenceBoard(
        notices.tell_presence, lambda session, data: (c := hub.find(session)) and c.send(data)
    )  # type: ignore[arg-type]
    notices.on_head = hub.moved
    notices.on_command = bridge.poke
    notices.on_presence = presence.heard
    notices.on_reconnect = bridge.poke_all
    services = Services(
        settings=settings,
        engine=engine,
        reader=reader,
        journal=journal,
        hub=hub,
        read=read,
        presence=presence,
        bridge=bridge,
        keeper=keeper,
        forge=forge,
        blobs=blobs,
        defer=defer,
        watch_stop=lambda prompt_id: later.call(turns.ENFORCE_SECONDS, lambda: keeper.enforce(prompt_id)),
    )
    doors = Doors(journal, forge, settings)
    return Wiring(
        settings=settings,
        database_url=database_url,
        engine=engine,
        services=services,
        notices=notices,
        jobs=work.register(keeper, janitor),
        page=create_page(services),
        door=gateway.create_app(journal, bridge, blobs, doors.mounts()),
        doors=doors,
        later=later,
    )


# ── a whole server ────────────────────────────────────────────────────────────────────────────────
def prepare_data_dir(settings: Settings) -> None:
    """Make the data folder, for its owner alone. Raises ``Unavailable``."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = settings.data_dir.stat()
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            settings.data_dir.chmod(0o700)  # made beforehand, and open to others on this machine
        probe = settings.data_dir / f".probe-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise Unavailable(
            "data_dir_unusable",
            f"The data folder {settings.data_dir} can't be written: {error.strerror}.",
            "Make it writable and see that its disk has room, or choose another folder by OPENINSPECT_DATA_DIR.",
        ) from error


@contextlib.asynccontextmanager
async def scripted_model(settings: Settings) -> AsyncIterator[Settings]:
    """With a script set, runs a scripted model server with it and names its address in the settings."""
    if settings.scripted_model is None:
        yield settings
        return
    from openinspect.testing.script import ScriptError
    from openinspect.testing.scripted_model import ScriptedModel

    try:
        model = ScriptedModel(settings.scripted_model, delay_ms=None)
    except (ScriptError, OSError) as error:
        raise Invalid(
            "script_unusable",
            f"The script {settings.scripted_model} can't be used: {error}",
            "Correct OPENINSPECT_SCRIPTED_MODEL.",
        ) from error
    async with model:
        yield settings.model_copy(update={"scripted_model_url": model.url})


@contextlib.asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str]:
    """The address of a database that is up and has this version's tables; an embedded one is started, watched and stopped."""
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        await migrate(url)
        yield url
        return
    postgres = EmbeddedPostgres(settings.data_dir / "postgres")
    url = await postgres.start()
    watcher = asyncio.create_task(postgres.watch())
    try:
        await migrate(url)
        yield url
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await postgres.stop()


@contextlib.asynccontextmanager
async def database_at_rest(settings: Settings) -> AsyncIterator[str]:
    """The address of the database for a command: of the running server's, or of one that is started for it. Not migrated."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    postgres = EmbeddedPostgres(settings.data_dir / "postgres")
    try:
        url = await postgres.start()
    except DatabaseFolderInUse:
        yield postgres.url
        return
    try:
        yield url
    finally:
        await postgres.stop()


async def _identity_from_git() -> tuple[str, str]:
    """Who the first owner is: as the machine's git knows them, else by the login name."""

    def ask(key: str) -> str:
        try:
            asked = subprocess.run(
                ["git", "config", "--global", key],
                capture_output=True,
                text=True,
                timeout=5,
                check=False,
                cwd="/",
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return asked.stdout.strip()

    name, email = await asyncio.gather(
        asyncio.to_thread(ask, "user.name"), asyncio.to_thread(ask, "user.email")
    )
    try:
        login = getpass.getuser()
    except (KeyError, OSError):
        login = "owner"
    return name or login, email if "@" in email else f"{login}@localhost.invalid"


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    jobs: bool = True,
    on_ready: Callable[[Wiring, people.User, int], Awaitable[None]] | None = None,
    before_end: Callable[[Wiring], Awaitable[None]] | None = None,
) -> None:
    """Run a server until ``stop`` is set. ``on_ready`` is awaited with the wiring, the owner and the port once it answers, ``before_end`` when it
    is to end and still answers, but runs no jobs any more.

    Raises ``ProblemError`` and ``DatabaseError``, each with a remedy.
    """
    prepare_data_dir(settings)
    tcp = listen_tcp(settings.host, settings.port)
    try:
        port: int = tcp.getsockname()[1]
        if settings.public_url is None:
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            host = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host
            settings = settings.model_copy(update={"public_url": f"http://{host}:{port}"})
        async with scripted_model(settings) as settings, database(settings) as url:
            settings = settings.model_copy(update={"default_model": usable_default(settings)})
            wiring = wire(settings, url)
            unix = listen_door(settings.door_dir)
            try:
                await wiring.services.forge.start()
                name, email = await _identity_from_git()
                async with wiring.engine.begin() as connection:
                    owner = await people.ensure_owner(connection, name, email)
                await _run(wiring, stop, tcp, unix, owner, port, jobs, on_ready, before_end)
            finally:
                await wiring.aclose()
                unix.close()
                (settings.door_dir / "gateway.sock").unlink(missing_ok=True)
    finally:
        tcp.close()


async def _run(
    wiring: Wiring,
    stop: asyncio.Event,
    tcp: socket.socket,
    unix: socket.socket,
    owner: people.User,
    port: int,
    jobs: bool,
    on_ready: Callable[[Wiring, people.User, int], Awaitable[None]] | None,
    before_end: Callable[[Wiring], Awaitable[None]] | None,
) -> None:
    """In the end first the jobs, so that nothing new is begun; then ``before_end``, while sandboxes can still say their last words; then the rest."""
    ready, closing = asyncio.Event(), asyncio.Event()
    background = asyncio.create_task(wiring.background())
    worker = asyncio.create_task(wiring.work()) if jobs else None
    servers = asyncio.create_task(
        run(wiring.page, wiring.door, tcp, unix, closing, wiring.settings.trusted_proxies, ready)
    )
    tasks = [task for task in (background, worker, servers) if task is not None]
    for task in tasks:
        task.add_done_callback(lambda _task: stop.set())
    servers.add_done_callback(lambda _task: ready.set())
    try:
        await ready.wait()
        if not servers.done() and on_ready is not None:
            await on_ready(wiring, owner, port)
        await stop.wait()
        if worker is not None:
            await _end(worker)
        if before_end is not None and not servers.done():
            await before_end(wiring)
    finally:
        closing.set()
        wiring.services.hub.close_all()
        await asyncio.gather(servers, return_exceptions=True)
        await _end(background)
        if worker is not None:
            await _end(worker)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def run_jobs(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker beside a server until ``stop`` is set."""
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
    else:
        url = EmbeddedPostgres(settings.data_dir / "postgres").url
    wiring = wire(settings.model_copy(update={"default_model": usable_default(settings)}), url)
    tasks = [
        asyncio.create_task(wiring.work()),
        asyncio.create_task(_keep_up(wiring.notices.run)),
        asyncio.create_task(stop.wait()),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await wiring.aclose()
    for result in ended:
        if isinstance(result, Exception):
            raise result
