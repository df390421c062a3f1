"""The embedded Postgres's folder: what lies in it, who may enter, and who runs on it.

FOLDER/            0700, the server's user
  server.lock      held (flock) by the server that owns the folder; says its process id
  processes.lock   held by every process of Postgres itself, by inheritance: free means that none is left
  passfile         0600, libpq's password file: addresses name it, so that no address holds the password
  postgres.log     what Postgres prints, bounded
  data/            0700, Postgres's user
  run/             0700, Postgres's user: the socket
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from openinspect.db.binaries import MAJOR_VERSION
from openinspect.db.errors import (
    DatabaseDiskFull,
    DatabaseError,
    DatabaseFolderInUse,
    DatabaseFolderUnusable,
    DatabaseUnavailable,
)

ROLE = DATABASE = "openinspect"
SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_MAX = 107  # bytes of sockaddr_un.sun_path without its closing zero
_LOG_MAX, _LOG_KEPT = 8 << 20, 1 << 20


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into DatabaseFolderUnusable or DatabaseDiskFull."""
    try:
        yield
    except OSError as error:
        raise explain(error, folder) from error


def explain(error: OSError, folder: Path) -> DatabaseError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(folder)
    return DatabaseFolderUnusable(
        f"The database folder {folder} cannot be used",
        error.strerror or str(error),
        "Make it writable for the user that runs the server, or set OPENINSPECT_DATA_DIR to another folder",
    )


def disk_full(folder: Path) -> DatabaseDiskFull:
    return DatabaseDiskFull(
        "The database cannot write",
        f"no space is left on the disk of {folder}",
        "Free some space",
    )


def database_url(folder: Path, socket_folder: str | None = None) -> str:
    """Address of the embedded Postgres for other processes of the same user; it holds no password. ``socket_folder``: where else to find ``run``."""
    socket = quote(socket_folder or str(folder / "run"), safe="")
    return (
        f"postgresql://{ROLE}@/{DATABASE}?host={socket}&passfile={quote(str(folder / 'passfile'), safe='')}"
    )


@contextlib.contextmanager
def attached(folder: Path) -> Iterator[str]:
    """Address of an embedded Postgres that another process of the same user runs; good inside of the block. Raises DatabaseUnavailable."""
    run = folder.absolute() / "run"
    if not (run / SOCKET).exists():
        raise DatabaseUnavailable(
            "The database is not running",
            f"no server runs on {folder}",
            "Start the server first: openinspect up",
        )
    if len(os.fsencode(run / SOCKET)) <= _SOCKET_PATH_MAX:
        yield database_url(folder.absolute())
        return
    descriptor = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield database_url(folder.absolute(), f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Folder:
    """One embedded Postgres's folder, as seen by the server that owns it."""

    def __init__(self, path: Path, uid: int) -> None:
        self.path = path.absolute()
        self.data = self.path / "data"
        self.fresh = self.path / "data.new"
        self.run = self.path / "run"
        self.passfile = self.path / "passfile"
        self.log = self.path / "postgres.log"
        self._wanted_uid = uid
        self._server_lock: int | None = None
        self._run_descriptor: int | None = None

    # ── ownership ─────────────────────────────────────────────────────────────────────────────────
    @property
    def uid(self) -> int:
        """The user that Postgres runs as: our own, or an unprivileged one if we are root."""
        if (own := os.geteuid()) != 0:
            return own
        with contextlib.suppress(FileNotFoundError):
            if owner := self.data.stat().st_uid:
                return owner
        return _mapped(self._wanted_uid)

    def prepare(self) -> None:
        """Make the folder and take it for this process. Raises DatabaseFolderInUse, DatabaseFolderUnusable, DatabaseDiskFull."""
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            self._server_lock = self._take_server_lock()
            for leftover in (self.fresh, self.path / "passfile.new"):
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(
                    missing_ok=True
                )
            self.own(self.run)
            self._write_passfile()
            self._check_version()

    def _take_server_lock(self) -> int:
        descriptor = os.open(self.path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise DatabaseFolderInUse(
                f"The database folder {self.path} is in use",
                f"another server (process {holder}) runs on it",
                "Stop that server first, or set OPENINSPECT_DATA_DIR to another folder",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def own(self, folder: Path) -> None:
        """Make ``folder`` a private one of Postgres's user."""
        folder.mkdir(exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(folder, self.uid, self.uid)

    def release(self) -> None:
        for descriptor in (self._server_lock, self._run_descriptor):
            if descriptor is not None:
                os.close(descriptor)
        self._server_lock = self._run_descriptor = None

    # ── password and address ──────────────────────────────────────────────────────────────────────
    def _write_passfile(self) -> None:
        if self.passfile.exists():
            return
        if self.data.exists():
            raise DatabaseFolderUnusable(
                f"The database in {self.path} cannot be opened",
                "its password file `passfile` is missing",
                "Put that file back, or move the folder away to begin with an empty database",
            )
        fresh = self.path / "passfile.new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"*:*:*:{ROLE}:{secrets.token_urlsafe(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.passfile)

    @contextlib.contextmanager
    def password_for_initdb(self) -> Iterator[str]:
        """A file with the password that Postgres's user can read, gone afterwards; its path relative to the data folder."""
        path = self.run / "password"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, self.passfile.read_text().rsplit(":", 1)[1].encode())
            os.fchown(descriptor, self.uid, -1)
            yield f"../run/{path.name}"
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def url(self) -> str:
        """Address for this process. Where the socket's path is too long for the system, it leads through a descriptor that ``release`` closes."""
        if len(os.fsencode(self.run / SOCKET)) <= _SOCKET_PATH_MAX:
            return database_url(self.path)
        if self._run_descriptor is None:
            self._run_descriptor = os.open(self.run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return database_url(self.path, f"/proc/self/fd/{self._run_descriptor}")

    # ── processes ─────────────────────────────────────────────────────────────────────────────────
    def try_claim_processes(self) -> int | None:
        """A descriptor to hand down to Postgres, or None while processes of an earlier one are still there."""
        descriptor = os.open(self.path / "processes.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Nobody runs: what a killed one left would only be mistaken for a process that has got the same number since.
        for left in (self.data / "postmaster.pid", self.run / SOCKET, self.run / f"{SOCKET}.lock"):
            left.unlink(missing_ok=True)
        return descriptor

    def processes(self) -> list[int]:
        """Ids of the processes that work in the data folder: Postgres's main process and backends, also orphaned ones."""
        with contextlib.suppress(FileNotFoundError):
            data = self.data.stat()
            return [
                int(path.name)
                for path in Path("/proc").iterdir()
                if path.name.isdigit() and _works_in(path, data)
            ]
        return []

    # ── log and version ───────────────────────────────────────────────────────────────────────────
    def open_log(self) -> int:
        self.bound_log()
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def bound_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_MAX:
                with self.log.open("r+b") as file:
                    file.seek(-_LOG_KEPT, os.SEEK_END)
                    kept = file.read()
                    file.seek(0)
                    file.write(kept)
                    file.truncate()

    def _check_version(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            version = (self.data / "PG_VERSION").read_text().strip()
            if version != MAJOR_VERSION:
                raise DatabaseFolderUnusable(
                    f"The database in {self.path} cannot be opened",
                    f"it was made by PostgreSQL {version}, and this release brings {MAJOR_VERSION}",
                    "Write a backup with the release that made it, and restore that backup into a new data folder",
                )


def _works_in(process: Path, data: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        place = (process / "cwd").stat()
        if (place.st_dev, place.st_ino) == (data.st_dev, data.st_ino):
            return (process / "exe").readlink().name.split(" ")[0] == "postgres"
    return False


def _mapped(wanted: int) -> int:
    """``wanted``, or inside a container that knows fewer user ids the highest one that nobody has a name for."""
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    if any(first <= wanted < first + count for first, _, count in ranges):
        return wanted
    for uid in range(60_999, 60_000, -1):
        if any(first <= uid < first + count for first, _, count in ranges):
            try:
                pwd.getpwuid(uid)
            except KeyError:
                return uid
    return 65_534
