"""Every table of the system, as SQLAlchemy Core metadata.

A session is a log: what happened is in ``events`` and is never changed. The other tables are the present state that jobs and routes act on;
each status column has its values listed beside it. Times are timestamps with time zone, money is US dollars as ``Numeric(12, 6)``,
ids are texts with a prefix that names their kind (``ses_…``, ``prm_…``; see ``protocol.ids``).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", Text, primary_key=True)


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _session(ondelete: str = "CASCADE") -> Column[str]:
    return Column("session_id", Text, ForeignKey("sessions.id", ondelete=ondelete), nullable=False)


# ── people ────────────────────────────────────────────────────────────────────────────────────────
users = Table(
    "users",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column(
        "email", Text, nullable=False
    ),  # goes into commits as the author's address; unique regardless of case
    Column("role", Text, nullable=False),  # owner | admin | member | viewer
    _now("created_at"),
    _time("disabled_at"),
    CheckConstraint("role IN ('owner','admin','member','viewer')", name="role"),
    Index("uq_users_email", func.lower(text("email")), unique=True),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    _id(),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("token_hash", Text, nullable=False, unique=True),
    Column(
        "scopes", ARRAY(Text), nullable=False
    ),  # permissions, a subset of the role's at each use; ["*"] is all of them
    _now("created_at"),
    _time("expires_at"),
    _time("last_used_at"),
    _time("revoked_at"),
)

web_sessions = Table(
    "web_sessions",
    metadata,
    _id(),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("token_hash", Text, nullable=False, unique=True),
    _now("created_at"),
    _time("expires_at", nullable=False),
    _time("last_used_at"),
    _time("revoked_at"),
)

signin_links = Table(
    "signin_links",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    _now("created_at"),
    _time("expires_at", nullable=False),
    _time("used_at"),
)

# ── code ──────────────────────────────────────────────────────────────────────────────────────────
repositories = Table(
    "repositories",
    metadata,
    _id(),
    Column("forge", Text, nullable=False),  # local
    Column("name", Text, nullable=False),  # shown and used in addresses, unique regardless of case
    Column("location", Text, nullable=False),  # the repository's folder on this machine
    Column("origin_url", Text),  # where it was cloned from, without credentials
    Column("default_branch", Text),
    Column("next_pull_request", Integer, nullable=False, server_default="1"),
    Column("created_by", Text, ForeignKey("users.id", ondelete="SET NULL")),
    _now("created_at"),
    Index("uq_repositories_name", func.lower(text("name")), unique=True),
    UniqueConstraint("forge", "location"),
)

# ── sessions ──────────────────────────────────────────────────────────────────────────────────────
sessions = Table(
    "sessions",
    metadata,
    _id(),
    Column("title", Text),
    Column("owner_id", Text, ForeignKey("users.id", ondelete="SET NULL")),
    Column("status", Text, nullable=False, server_default="active"),  # active | archived | deleting
    Column("model", Text, nullable=False),
    Column("effort", Text),
    Column("head", BigInteger, nullable=False, server_default="0"),  # seq of the newest event
    Column(
        "next_position", Integer, nullable=False, server_default="1"
    ),  # place of the next prompt in the queue
    Column("cost_usd", Numeric(12, 6), nullable=False, server_default="0"),
    Column("client_request_id", Text),
    Column("fingerprint", Text),  # sha256 of what that request asked for; None: made before it was kept
    _now("created_at"),
    _now("updated_at"),
    _time("archived_at"),
    CheckConstraint("status IN ('active','archived','deleting')", name="status"),
    Index("ix_sessions_updated_at", "updated_at"),
    Index("ix_sessions_deleting", "id", postgresql_where=text("status = 'deleting'")),
    Index(
        "uq_sessions_client_request",
        "owner_id",
        "client_request_id",
        unique=True,
        postgresql_where=text("client_request_id IS NOT NULL"),
    ),
)

session_targets = Table(
    "session_targets",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("position", SmallInteger, primary_key=True),  # 0 is the primary repository
    Column("repository_id", Text, ForeignKey("repositories.id"), nullable=False),
    Column(
        "directory", Text, nullable=False
    ),  # name of its folder in the workspace and in the git gateway's address
    Column("base_branch", Text, nullable=False),
    Column("base_sha", Text),  # pinned when it was checked out; diffs are against it
    Column("work_branch", Text, nullable=False),
    UniqueConstraint("session_id", "directory"),
)

prompts = Table(
    "prompts",
    metadata,
    _id(),  # also names the turn that runs it
    _session(),
    Column("position", Integer, nullable=False),
    Column("author_id", Text, ForeignKey("users.id", ondelete="SET NULL")),
    Column("text", Text, nullable=False),
    Column("model", Text),  # None: the session's
    Column("effort", Text),
    Column("status", Text, nullable=False),  # queued | running | completed | failed | stopped | cancelled
    Column("client_request_id", Text),
    Column("fingerprint", Text, nullable=False),  # sha256 of author, text, model, effort, attachments
    Column("retry_of", Text),
    Column("sandbox_id", Text),  # the sandbox that its command was given to
    Column("reason", Text),
    Column("remedy", Text),
    Column("stop_requested_at", DateTime(timezone=True)),
    Column("stop_requested_by", Text),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost_usd", Numeric(12, 6), nullable=False, server_default="0"),
    _now("created_at"),
    _time("started_at"),
    _time("deadline_at"),  # of the running turn; past it the turn is stopped with a reason
    _time("finished_at"),
    CheckConstraint(
        "status IN ('queued','running','completed','failed','stopped','cancelled')", name="status"
    ),
    UniqueConstraint("session_id", "position"),
    Index("uq_prompts_running", "session_id", unique=True, postgresql_where=text("status = 'running'")),
    Index(
        "uq_prompts_client_request",
        "session_id",
        "client_request_id",
        unique=True,
        postgresql_where=text("client_request_id IS NOT NULL"),
    ),
    Index("ix_prompts_unfinished", "session_id", postgresql_where=text("status IN ('queued','running')")),
)

attachments = Table(
    "attachments",
    metadata,
    _id(),
    _session(),
    Column("prompt_id", Text),  # None until a prompt refers to it; such ones are pruned after 24 h
    Column("uploaded_by", Text, ForeignKey("users.id", ondelete="SET NULL")),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("blob_key", Text, nullable=False),
    _now("created_at"),
    Index("ix_attachments_session_id", "session_id"),
    Index("ix_attachments_prompt_id", "prompt_id"),
)

events = Table(
    "events",
    metadata,
    Column(
        "session_id", Text, primary_key=True
    ),  # no foreign key: the log is appended to very often, and deleted with its session
    Column("seq", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("turn_id", Text),
    Column("body", JSONB, nullable=False),
    _now("at"),
    # the few kinds that are looked for by more than their place
    Index(
        "ix_events_results",
        "session_id",
        "turn_id",
        postgresql_where=text("kind IN ('commit', 'git.pushed', 'pull_request')"),
    ),
    Index(
        "ix_events_questions",
        "session_id",
        "seq",
        postgresql_where=text("kind IN ('question.asked', 'question.answered', 'question.closed')"),
    ),
)

open_parts = Table(
    "open_parts",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("part_id", Text, primary_key=True),
    Column("turn_id", Text, nullable=False),
    Column("kind", Text, nullable=False),  # text | reasoning
    Column("text", Text, nullable=False),
    _now("updated_at"),
)

diffs = Table(
    "diffs",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("directory", Text, primary_key=True),
    Column("body", JSONB, nullable=False),  # protocol.diffs.RepositoryDiff
    _now("updated_at"),
)

# ── sandboxes ─────────────────────────────────────────────────────────────────────────────────────
sandboxes = Table(
    "sandboxes",
    metadata,
    _id(),  # a new row for every attempt
    _session(),
    Column("provider", Text, nullable=False),
    Column("state", Text, nullable=False),  # requested | booting | ready | stopping | stopped | failed | lost
    Column("handle", JSONB),  # the provider's own words for finding it again
    Column("token_hash", Text, nullable=False, unique=True),
    Column("boot_step", Text),
    Column("reason", Text),
    Column("remedy", Text),
    Column(
        "frames_counted", BigInteger, nullable=False, server_default="0"
    ),  # number of the newest frame that is in the log
    Column("commands_issued", BigInteger, nullable=False, server_default="0"),
    Column("runtime_version", Text),
    Column("agent_state", Text),  # starting | idle | busy | restarting | failed
    _now("created_at"),
    _time("ready_at"),
    _time("last_seen_at"),
    _time("deadline_at"),  # of the present state
    _time("idle_at"),  # since when nothing has been running in it
    _time("ended_at"),
    CheckConstraint(
        "state IN ('requested','booting','ready','stopping','stopped','failed','lost')", name="state"
    ),
    Index(
        "uq_sandboxes_live",
        "session_id",
        unique=True,
        postgresql_where=text("state IN ('requested','booting','ready','stopping')"),
    ),
    Index("ix_sandboxes_session_id", "session_id"),
)

commands = Table(
    "commands",
    metadata,
    Column("sandbox_id", Text, ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("n", BigInteger, primary_key=True),
    Column("body", JSONB, nullable=False),
    _now("created_at"),
)  # deleted when the sandbox has acknowledged them

# ── results and costs ─────────────────────────────────────────────────────────────────────────────
pull_requests = Table(
    "pull_requests",
    metadata,
    _id(),
    Column("repository_id", Text, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="SET NULL")),
    Column("prompt_id", Text),
    Column("author_id", Text, ForeignKey("users.id", ondelete="SET NULL")),
    Column("author_name", Text, nullable=False),
    Column("author_email", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("head", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("head_sha", Text, nullable=False),
    Column(
        "base_sha", Text, nullable=False
    ),  # merge base when it was last looked at; the diff is read against it
    Column("state", Text, nullable=False),  # open | merged | closed
    Column("draft", Boolean, nullable=False, server_default=text("false")),
    Column("merge_method", Text),
    Column("merge_sha", Text),
    Column("merged_by", Text),
    _now("created_at"),
    _now("updated_at"),
    _time("merged_at"),
    _time("closed_at"),
    CheckConstraint("state IN ('open','merged','closed')", name="state"),
    UniqueConstraint("repository_id", "number"),
    Index(
        "uq_pull_requests_open",
        "repository_id",
        "head",
        "base",
        unique=True,
        postgresql_where=text("state = 'open'"),
    ),
    Index("ix_pull_requests_session_id", "session_id"),
)

model_calls = Table(
    "model_calls",
    metadata,
    _id(),
    _session(),
    Column("prompt_id", Text),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("scripted", Boolean, nullable=False, server_default=text("false")),
    Column("status", Text, nullable=False),  # reserved | settled | failed
    Column("reserved_usd", Numeric(12, 6), nullable=False, server_default="0"),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_read_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_write_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost_usd", Numeric(12, 6)),  # None: the price is not known
    Column("http_status", Integer),
    _now("started_at"),
    _time("finished_at"),
    CheckConstraint("status IN ('reserved','settled','failed')", name="status"),
    Index("ix_model_calls_session_id", "session_id"),
    Index("ix_model_calls_reserved", "started_at", postgresql_where=text("status = 'reserved'")),
)

stream_tickets = Table(
    "stream_tickets",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("credential_id", Text, nullable=False),  # the API token or web session that asked for it
    _time("expires_at", nullable=False),
)
