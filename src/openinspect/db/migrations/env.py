"""Alembic's entry: runs the revisions on the connection and in the transaction that ``openinspect.db.migrate`` hands over."""

from alembic import context

from openinspect.db.tables import metadata


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    """Procrastinate's tables are its own affair, see ``openinspect.db.job_tables``."""
    return not (kind == "table" and (name or "").startswith("procrastinate_"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    compare_server_default=True,
    include_name=_ours,
)
with context.begin_transaction():
    context.run_migrations()
