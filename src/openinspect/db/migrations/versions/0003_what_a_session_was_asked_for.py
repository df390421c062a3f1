"""Sessions keep what their request asked for, so that a request id that comes again with something else is noticed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("fingerprint", sa.Text(), nullable=True))
