"""What the HTTP API takes and gives. The web app's and other clients' types are generated from these by way of OpenAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from openinspect.protocol.diffs import RepositoryDiff
from openinspect.protocol.events import AttachmentInfo, Event, Person

PromptText = Annotated[str, StringConstraints(max_length=64_000)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
ShortText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Effort = Annotated[str, StringConstraints(min_length=1, max_length=32)]
Role = Literal["owner", "admin", "member", "viewer"]


MAX_DEPTH = 50


def storable(value: Any, depth: int = 0) -> Any:
    """The same with what Postgres can't hold (NUL, halves of surrogate pairs) replaced by U+FFFD. Raises ``ValueError`` for what is nested deeper than anything here is."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [storable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item, depth + 1) for key, item in value.items()}
    return value


class Body(BaseModel):
    """A request's body: unknown fields are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        return storable(value)


class View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Problem(BaseModel):
    """Every error looks like this."""

    code: str
    """Stable, for programs: ``not_found``, ``queue_full`` …"""
    message: str
    """What happened and why."""
    remedy: str = ""
    """What to do about it."""


class ErrorAnswer(BaseModel):
    error: Problem


# ── people ────────────────────────────────────────────────────────────────────────────────────────
class SignIn(Body):
    token: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class UserView(View):
    id: str
    name: str
    email: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None = None


class NewUser(Body):
    name: ShortText
    email: Annotated[
        str, StringConstraints(strip_whitespace=True, max_length=254, pattern=r"^[^@\s<>]+@[^@\s<>]+$")
    ]
    role: Role = "member"


class UserChange(Body):
    name: ShortText | None = None
    email: (
        Annotated[
            str, StringConstraints(strip_whitespace=True, max_length=254, pattern=r"^[^@\s<>]+@[^@\s<>]+$")
        ]
        | None
    ) = None
    role: Role | None = None
    disabled: bool | None = None


class SignInLink(View):
    url: str
    """The secret is in the part behind ``#``, which browsers do not send and servers do not log."""
    expires_at: datetime


class ServerInfo(View):
    version: str
    scripted_model: bool
    """A scripted model server answers instead of a provider: for demos and tests."""
    public_url: str
    default_model: str
    max_unfinished_prompts: int


class Me(View):
    user: UserView
    permissions: list[str]
    server: ServerInfo


class NewToken(Body):
    name: ShortText
    scopes: list[Annotated[str, StringConstraints(max_length=64)]] = Field(
        default=["*"], min_length=1, max_length=64
    )
    """Permissions; ``*`` is all that the person has."""
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


class TokenView(View):
    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class CreatedToken(TokenView):
    token: str
    """Shown this once."""


# ── code ──────────────────────────────────────────────────────────────────────────────────────────
class NewRepository(Body):
    """Exactly one of ``path`` (a repository on the server's machine) and ``url`` (to be cloned)."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None


class RepositoryView(View):
    id: str
    name: str
    forge: str
    location: str
    origin_url: str | None
    default_branch: str | None
    created_at: datetime


class BranchView(View):
    name: str
    sha: str
    is_default: bool = False


class PullRequestView(View):
    id: str
    repository_id: str
    repository: str
    number: int
    session_id: str | None
    title: str
    body: str
    head: str
    base: str
    head_sha: str
    state: Literal["open", "merged", "closed"]
    draft: bool
    mergeable: bool | None = None
    """None: not looked at."""
    mergeable_reason: str = ""
    merge_method: str | None
    merge_sha: str | None
    author_name: str
    created_at: datetime
    updated_at: datetime
    merged_at: datetime | None


class Merge(Body):
    method: Literal["ff", "merge", "squash"] = "merge"
    expected_head: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40,64}$")] | None = None
    """The merge is refused when the branch has moved since."""


# ── models ────────────────────────────────────────────────────────────────────────────────────────
class ModelView(View):
    id: str
    """As ``provider/model``."""
    provider: str
    name: str
    efforts: list[str]
    default_effort: str | None
    available: bool
    scripted: bool = False
    reason: str = ""
    remedy: str = ""


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────
class NewTarget(Body):
    repository: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Id or name."""
    branch: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    """To begin from; the repository's default branch when not given."""


class NewPrompt(Body):
    text: PromptText = ""
    """May be empty only with attachments."""
    model: ModelName | None = None
    effort: Effort | None = None
    attachments: list[Annotated[str, StringConstraints(max_length=64)]] = Field(default=[], max_length=6)
    client_request_id: RequestId | None = None
    """The same id and content again gives the same prompt; other content under it is a conflict."""


class PromptChange(Body):
    text: PromptText


class NewSession(Body):
    title: Title | None = None
    targets: list[NewTarget] = Field(default=[], max_length=10)
    model: ModelName | None = None
    effort: Effort | None = None
    prompt: NewPrompt | None = None
    client_request_id: RequestId | None = None


class SessionChange(Body):
    title: Title | None = None
    model: ModelName | None = None
    effort: Effort | None = None


class TargetView(View):
    repository_id: str
    repository: str
    directory: str
    base_branch: str
    base_sha: str | None
    work_branch: str


class PromptView(View):
    id: str
    position: int
    author: Person
    text: str
    model: str
    effort: str | None
    status: Literal["queued", "running", "completed", "failed", "stopped", "cancelled"]
    attachments: list[AttachmentInfo] = []
    reason: str | None = None
    remedy: str | None = None
    stop_requested: bool = False
    cost_usd: float = 0
    input_tokens: int = 0
    output_tokens: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class SandboxView(View):
    id: str
    state: Literal["requested", "booting", "ready", "stopping", "stopped", "failed", "lost"]
    agent: str | None = None
    boot_step: str | None = None
    runtime_version: str | None = None
    """Of what runs in it, once it is ready."""
    connected: bool = False
    """The bridge is up at this moment."""
    reason: str | None = None
    remedy: str | None = None
    created_at: datetime
    ready_at: datetime | None = None


class SessionSummary(View):
    id: str
    title: str | None
    status: Literal["active", "archived", "deleting"]
    activity: Literal["idle", "queued", "starting", "running", "waiting"]
    """Derived: ``waiting`` is for an answer of a person, ``starting`` for the sandbox."""
    last_outcome: Literal["completed", "failed", "stopped"] | None = None
    owner: Person
    model: str
    effort: str | None
    targets: list[TargetView]
    pull_requests: list[PullRequestView] = []
    cost_usd: float
    created_at: datetime
    updated_at: datetime


class OpenPart(View):
    """A part that is being written at this moment."""

    part_id: str
    turn_id: str
    kind: Literal["text", "reasoning"]
    text: str


class SessionDetail(SessionSummary):
    head: int
    """Seq of the newest event."""
    prompts: list[PromptView]
    """The unfinished ones in the order that they will run, then the newest finished one."""
    sandbox: SandboxView | None
    open_parts: list[OpenPart] = []


class SessionPage(View):
    items: list[SessionSummary]
    next: str | None
    """Give it as ``before`` for the next page."""


class EventPage(View):
    events: list[Event]
    head: int
    more: bool
    """There are further events in the direction that was asked for."""


class DiffView(View):
    repositories: list[RepositoryDiff]
    updated_at: datetime | None


class Answers(Body):
    answers: list[list[Annotated[str, StringConstraints(max_length=4000)]]] = Field(max_length=10)


class StreamTicket(View):
    ticket: str
    expires_at: datetime
