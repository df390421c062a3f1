"""What can stand in a session's log.

Every event is whole: a text part, a tool call's result, a status. While a text is still being written its deltas travel beside the log
(``frames.Delta``) and are replaced by the whole part when it ends. ``SandboxEvent`` is what a sandbox may say; the rest comes from the
control plane alone, so that nothing inside a sandbox decides about identity, cost, rights or refs.

Lengths: a text part at most 1,000,000 characters, a tool's output at most 65,536 and its input at most 65,536 bytes of JSON (the runtime cuts,
and says so in ``truncated``; the server leaves out what is longer all the same), a boot log chunk at most 16,384.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from .base import Id, Line, Message, Name, Text

ToolText = Annotated[str, StringConstraints(max_length=65_536)]
LogText = Annotated[str, StringConstraints(max_length=16_384)]
Sha = Annotated[str, StringConstraints(max_length=64)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""What every reader of JSON keeps exactly; a clock that was set back may make it negative."""
TOOL_INPUT_BYTES = 65_536
TOOL_INPUT_DEPTH = 50


class Person(Message):
    id: str | None
    name: str


class AttachmentInfo(Message):
    id: Id
    name: Name
    media_type: str
    size: int
    """Bytes."""


# ── what a sandbox may say ────────────────────────────────────────────────────────────────────────
class BootStep(Message):
    """One step of making the sandbox ready: ``agent`` (it is started beside the others), ``clone``, ``setup``, ``start``."""

    kind: Literal["boot.step"] = "boot.step"
    step: Name
    state: Literal["started", "completed", "failed"]
    detail: Line = ""
    duration_ms: Whole | None = None


class BootLog(Message):
    kind: Literal["boot.log"] = "boot.log"
    step: Name
    text: LogText


class CheckedOut(Message):
    """A repository lies in the workspace: at which commit, on which branch, and whether it was there already."""

    kind: Literal["checked_out"] = "checked_out"
    directory: Name
    base_sha: Sha
    branch: Name
    restored: bool = False


class SandboxReady(Message):
    kind: Literal["sandbox.ready"] = "sandbox.ready"
    runtime_version: Line
    agent: Line
    """Name and version, such as ``opencode 1.18.33``."""


class SandboxFailed(Message):
    """The runtime gives up: it is the last thing it says."""

    kind: Literal["sandbox.failed"] = "sandbox.failed"
    reason: Line
    remedy: Line = ""
    log_tail: LogText = ""


class AgentRestarted(Message):
    kind: Literal["agent.restarted"] = "agent.restarted"
    reason: Line
    attempt: Whole
    log_tail: LogText = ""


class TextPart(Message):
    kind: Literal["text"] = "text"
    part_id: Id
    text: Text
    truncated: bool = False


class ReasoningPart(Message):
    kind: Literal["reasoning"] = "reasoning"
    part_id: Id
    text: Text
    truncated: bool = False


class ToolStarted(Message):
    kind: Literal["tool.started"] = "tool.started"
    call_id: Id
    tool: Name
    input: dict[str, Any] = {}
    truncated: bool = False


class ToolFinished(Message):
    kind: Literal["tool.finished"] = "tool.finished"
    call_id: Id
    tool: Name
    state: Literal["completed", "failed"]
    title: Line = ""
    input: dict[str, Any] = {}
    output: ToolText = ""
    duration_ms: Whole | None = None
    exit_code: Annotated[int, Field(ge=-1024, le=1024)] | None = None
    """Of a command that ran to its end; None where there is none. The call is completed whatever it is."""
    truncated: bool = False


class StepFinished(Message):
    """One round of the agent with the model, as the agent counted it. What it cost is metered by the gateway (``ModelCalled``)."""

    kind: Literal["step.finished"] = "step.finished"
    reason: Name
    input_tokens: Whole = 0
    output_tokens: Whole = 0


class Todo(Message):
    text: Line
    state: Literal["pending", "in_progress", "completed", "cancelled"]


class TodosChanged(Message):
    kind: Literal["todos"] = "todos"
    items: list[Todo] = Field(max_length=200)


class Committed(Message):
    kind: Literal["commit"] = "commit"
    directory: Name
    sha: Sha
    subject: Line
    author: Line


class DiffChanged(Message):
    """The work tree differs from its base in a new way. The patches themselves are fetched apart."""

    kind: Literal["diff"] = "diff"
    directory: Name
    files: Whole
    additions: Whole
    deletions: Whole


class ContextCompacted(Message):
    kind: Literal["context.compacted"] = "context.compacted"


class QuestionOption(Message):
    label: Line
    description: Line = ""


class Question(Message):
    text: Line
    options: list[QuestionOption] = Field(default=[], max_length=20)
    multiple: bool = False


class QuestionAsked(Message):
    """The agent waits for a person, until the deadline; then it goes on with ``default``."""

    kind: Literal["question.asked"] = "question.asked"
    question_id: Id
    questions: list[Question] = Field(min_length=1, max_length=10)
    deadline: datetime
    default: Line


class QuestionClosed(Message):
    kind: Literal["question.closed"] = "question.closed"
    question_id: Id
    outcome: Literal["answered", "timed_out", "dropped"]


class Warned(Message):
    """Something went wrong that does not end the turn."""

    kind: Literal["warning"] = "warning"
    scope: Name
    message: Line
    remedy: Line = ""


class TurnEnded(Message):
    """The agent has finished with a prompt. The control plane turns it into ``TurnFinished``."""

    kind: Literal["turn.ended"] = "turn.ended"
    outcome: Literal["completed", "failed", "stopped"]
    reason: Line = ""
    remedy: Line = ""


class TurnResumed(Message):
    """A turn goes on after something died: a model call may have been made twice."""

    kind: Literal["turn.resumed"] = "turn.resumed"
    reason: Line


SandboxEvent = Annotated[
    BootStep
    | BootLog
    | CheckedOut
    | SandboxReady
    | SandboxFailed
    | AgentRestarted
    | TextPart
    | ReasoningPart
    | ToolStarted
    | ToolFinished
    | StepFinished
    | TodosChanged
    | Committed
    | DiffChanged
    | ContextCompacted
    | QuestionAsked
    | QuestionClosed
    | Warned
    | TurnEnded
    | TurnResumed,
    Field(discriminator="kind"),
]


# ── what only the control plane says ──────────────────────────────────────────────────────────────
class Target(Message):
    repository_id: str
    repository: str
    directory: str
    base_branch: str
    work_branch: str


class SessionCreated(Message):
    kind: Literal["session.created"] = "session.created"
    by: Person
    targets: list[Target]
    model: str
    effort: str | None


class SessionTitled(Message):
    kind: Literal["session.titled"] = "session.titled"
    title: str
    by: Person | None = None


class SessionArchived(Message):
    kind: Literal["session.archived"] = "session.archived"
    by: Person


class SessionRestored(Message):
    kind: Literal["session.restored"] = "session.restored"
    by: Person


class PromptQueued(Message):
    kind: Literal["prompt.queued"] = "prompt.queued"
    prompt_id: str
    author: Person
    text: str
    model: str
    effort: str | None
    attachments: list[AttachmentInfo] = []
    retry_of: str | None = None


class PromptEdited(Message):
    kind: Literal["prompt.edited"] = "prompt.edited"
    prompt_id: str
    text: str
    by: Person


class PromptCancelled(Message):
    kind: Literal["prompt.cancelled"] = "prompt.cancelled"
    prompt_id: str
    by: Person


class TurnStarted(Message):
    kind: Literal["turn.started"] = "turn.started"
    prompt_id: str
    model: str
    effort: str | None


class StopRequested(Message):
    kind: Literal["stop.requested"] = "stop.requested"
    prompt_id: str
    by: Person


class TurnFinished(Message):
    kind: Literal["turn.finished"] = "turn.finished"
    prompt_id: str
    status: Literal["completed", "failed", "stopped"]
    reason: str = ""
    remedy: str = ""
    done: list[str] = []
    """What the turn has already left behind outside its sandbox (commits pushed, pull requests opened): a retry does not do it again."""
    duration_ms: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class SandboxChanged(Message):
    kind: Literal["sandbox.changed"] = "sandbox.changed"
    sandbox_id: str
    state: Literal["requested", "booting", "ready", "stopping", "stopped", "failed", "lost"]
    reason: str = ""
    remedy: str = ""


class ModelCalled(Message):
    """One call of a model as the gateway metered it. ``cost_usd`` is None when the price is not known."""

    kind: Literal["model.called"] = "model.called"
    provider: str
    model: str
    scripted: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float | None
    duration_ms: int
    error: str | None = None


class Pushed(Message):
    kind: Literal["git.pushed"] = "git.pushed"
    directory: str
    ref: str
    old_sha: str | None
    new_sha: str | None


class PushRefused(Message):
    kind: Literal["git.refused"] = "git.refused"
    directory: str
    ref: str
    reason: str


class PullRequestChanged(Message):
    kind: Literal["pull_request"] = "pull_request"
    pull_request_id: str
    repository: str
    number: int
    title: str
    head: str
    base: str
    state: Literal["open", "merged", "closed"]
    draft: bool
    change: Literal["opened", "updated", "merged", "closed", "reopened"]
    by: Person


class QuestionAnswered(Message):
    kind: Literal["question.answered"] = "question.answered"
    question_id: str
    answers: list[list[str]]
    by: Person


ControlEvent = (
    SessionCreated
    | SessionTitled
    | SessionArchived
    | SessionRestored
    | PromptQueued
    | PromptEdited
    | PromptCancelled
    | TurnStarted
    | StopRequested
    | TurnFinished
    | SandboxChanged
    | ModelCalled
    | Pushed
    | PushRefused
    | PullRequestChanged
    | QuestionAnswered
)

EventBody = Annotated[
    BootStep
    | BootLog
    | CheckedOut
    | SandboxReady
    | SandboxFailed
    | AgentRestarted
    | TextPart
    | ReasoningPart
    | ToolStarted
    | ToolFinished
    | StepFinished
    | TodosChanged
    | Committed
    | DiffChanged
    | ContextCompacted
    | QuestionAsked
    | QuestionClosed
    | Warned
    | TurnResumed
    | ControlEvent,
    Field(discriminator="kind"),
]


class Event(Message):
    """One entry of a session's log, as every reader gets it."""

    seq: int
    at: datetime
    turn_id: str | None = None
    body: EventBody


sandbox_event = TypeAdapter[SandboxEvent](SandboxEvent)
