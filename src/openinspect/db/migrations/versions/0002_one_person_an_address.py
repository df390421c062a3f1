"""One person an address; indexes for what is looked for often; tickets name the credential that asked for them.

Where several people have the same address, the one who was there first keeps it, and the others' get ``+`` and their id before the ``@``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"UPDATE users SET email = regexp_replace(email, '(@[^@]*)?$', '+' || id || '\1') WHERE EXISTS ("
        "SELECT 1 FROM users AS first WHERE lower(first.email) = lower(users.email) "
        "AND (first.created_at, first.id) < (users.created_at, users.id))"
    )
    op.create_index("uq_users_email", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_index("ix_attachments_prompt_id", "attachments", ["prompt_id"], unique=False)
    op.create_index(
        "ix_sessions_deleting",
        "sessions",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'deleting'"),
    )
    op.create_index(
        "ix_model_calls_reserved",
        "model_calls",
        ["started_at"],
        unique=False,
        postgresql_where=sa.text("status = 'reserved'"),
    )
    op.drop_column("prompts", "interruptions")
    op.drop_column("sessions", "agent_session_id")
    # tickets live for half a minute: whoever has one asks again
    op.execute("DELETE FROM stream_tickets")
    op.add_column("stream_tickets", sa.Column("credential_id", sa.Text(), nullable=False))
