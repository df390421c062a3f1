"""What can go wrong with the database, in words for people.

Every error says what happened, why, and what to do, and never holds a password. Whoever shows one to a person prints ``str(error)``, not a traceback.
"""

from __future__ import annotations


class DatabaseError(Exception):
    """The database cannot be used. ``what`` happened, ``why``, and a ``remedy``: each one sentence without a full stop."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what}: {why}. {remedy}.")
        self.what = what
        self.why = why
        self.remedy = remedy


class DatabaseUnavailable(DatabaseError):
    """No connection, or it was lost: worth trying again."""


class DatabaseRefused(DatabaseUnavailable):
    """It did answer, and lets this address in no further: a password, a user, a database. Worth trying again only when that was put right."""


class DatabaseAddressInvalid(DatabaseError):
    """The database URL cannot be read."""


class DatabaseFolderInUse(DatabaseError):
    """Another server runs on the same data folder."""


class DatabaseFolderUnusable(DatabaseError):
    """The data folder cannot be written or read: read-only, no permission, or from another version."""


class DatabaseDiskFull(DatabaseError):
    """No space is left where the database keeps its files."""


class EmbeddedPostgresFailed(DatabaseError):
    """The embedded Postgres did not start; its last words are in ``why``."""


class BackupFailed(DatabaseError):
    """A backup could not be written or restored."""
