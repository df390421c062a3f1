"""What the control plane asks of a sandbox. Commands are numbered rows, sent until the sandbox says that it has seen them; doing one twice
must do no harm, and an unknown one is answered by a warning and skipped. A sandbox is ended by its provider, with a signal, not by a command:
that works without a connection too.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Id, Message, Name
from .events import AttachmentInfo


class TargetSpec(Message):
    """A repository to check out at ``/workspace/<directory>`` (the only one: at ``/workspace/repo``, with the other name a link)."""

    directory: Name
    git_path: str
    """Path at the door, such as ``/git/widgets``."""
    base_branch: Name
    base_sha: str | None = None
    """Pinned when the session first checked it out."""
    work_branch: Name


class Identity(Message):
    """Who a commit is by."""

    name: Name
    email: Name


class Configure(Message):
    """Makes the sandbox the session's: check out the repositories, run the hooks, then be ready for prompts."""

    kind: Literal["configure"] = "configure"
    session_id: Id
    targets: list[TargetSpec] = Field(max_length=10)
    committer: Identity
    clone_seconds: int = 300
    setup_seconds: int = 300
    start_seconds: int = 120


class ModelChoice(Message):
    provider: Name
    model: Name
    effort: str | None = None


class RunPrompt(Message):
    kind: Literal["prompt"] = "prompt"
    prompt_id: Id
    text: str
    model: ModelChoice
    author: Identity
    attachments: list[AttachmentInfo] = Field(default=[], max_length=6)
    """Fetched from the door at ``/bridge/attachments/<id>``."""
    title: str = ""
    """Of the agent's session, so that the agent does not ask a model for one."""


class StopTurn(Message):
    """Stop the turn of this prompt: ask the agent, after 2 s kill its process group. The turn has ended within 5 s."""

    kind: Literal["stop"] = "stop"
    prompt_id: Id


class AnswerQuestion(Message):
    kind: Literal["answer"] = "answer"
    question_id: Id
    answers: list[list[str]] = Field(max_length=10)
    """For each question the labels chosen, or free text."""


Command = Annotated[Configure | RunPrompt | StopTurn | AnswerQuestion, Field(discriminator="kind")]
