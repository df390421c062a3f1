"""From rows to what the API shows of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.engine import RowMapping

from openinspect.protocol.events import AttachmentInfo, Person
from openinspect.sessions import reading
from openinspect.sessions.reading import SessionRows

from .models import (
    OpenPart,
    PromptView,
    PullRequestView,
    SandboxView,
    SessionDetail,
    SessionSummary,
    TargetView,
)


def prompt_view(
    row: RowMapping, session_model: str, session_effort: str | None, attached: Sequence[RowMapping]
) -> PromptView:
    own = row["model"] or row["effort"]
    return PromptView(
        id=row["id"],
        position=row["position"],
        author=Person(id=row["author_id"], name=row["author_name"] or "Somebody"),
        text=row["text"],
        model=row["model"] or session_model,
        effort=row["effort"] if own else session_effort,
        status=row["status"],
        attachments=[
            AttachmentInfo(id=a["id"], name=a["name"], media_type=a["media_type"], size=a["size"])
            for a in attached
        ],
        reason=row["reason"],
        remedy=row["remedy"],
        stop_requested=row["stop_requested_at"] is not None,
        cost_usd=float(row["cost_usd"]),
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def pull_request_view(row: RowMapping, mergeable: bool | None = None, reason: str = "") -> PullRequestView:
    return PullRequestView.model_validate({**row, "mergeable": mergeable, "mergeable_reason": reason})


def _common(rows: SessionRows) -> dict[str, object]:
    session = rows.session
    return {
        "id": session["id"],
        "title": session["title"],
        "status": session["status"],
        "activity": reading.activity(rows),
        "last_outcome": rows.last_finished["status"] if rows.last_finished else None,
        "owner": Person(id=session["owner_id"], name=session["owner_name"] or "Somebody"),
        "model": session["model"],
        "effort": session["effort"],
        "targets": [TargetView.model_validate(dict(target)) for target in rows.targets],
        "pull_requests": [pull_request_view(row) for row in rows.pull_requests],
        "cost_usd": float(session["cost_usd"]),
        "created_at": session["created_at"],
        "updated_at": session["updated_at"],
    }


def summary(rows: SessionRows) -> SessionSummary:
    return SessionSummary.model_validate(_common(rows))


def detail(
    rows: SessionRows, attached: dict[str, list[RowMapping]], parts: list[RowMapping], *, connected: bool
) -> SessionDetail:
    prompts = [*rows.unfinished, *([rows.last_finished] if rows.last_finished else [])]
    return SessionDetail.model_validate(
        {
            **_common(rows),
            "head": rows.session["head"],
            "prompts": [
                prompt_view(row, rows.session["model"], rows.session["effort"], attached.get(row["id"], []))
                for row in prompts
            ],
            "sandbox": sandbox_view(rows.sandbox, connected=connected) if rows.sandbox else None,
            "open_parts": [OpenPart.model_validate(dict(part)) for part in parts],
        }
    )


def sandbox_view(row: RowMapping, *, connected: bool) -> SandboxView:
    return SandboxView(
        id=row["id"],
        state=row["state"],
        agent=row["agent_state"],
        boot_step=row["boot_step"],
        runtime_version=row["runtime_version"],
        connected=connected,
        reason=row["reason"],
        remedy=row["remedy"],
        created_at=row["created_at"],
        ready_at=row["ready_at"],
    )


def new_session(row: RowMapping, owner: Person, targets: Sequence[Mapping[str, object]]) -> SessionDetail:
    """A session that was just created, without reading it back."""
    return SessionDetail(
        id=row["id"],
        title=row["title"],
        status=row["status"],
        activity="idle",
        owner=owner,
        model=row["model"],
        effort=row["effort"],
        targets=[
            TargetView.model_validate({**target, "repository": target["directory"], "base_sha": None})
            for target in targets
        ],
        cost_usd=0,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        head=1,
        prompts=[],
        sandbox=None,
    )
