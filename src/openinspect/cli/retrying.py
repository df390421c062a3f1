"""Which prompt is meant by “again”. The session's log says how each has ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from openinspect.problems import Invalid

from .client import Client
from .text import program


def to_retry(api: Client, session_id: str, reference: str | None) -> str:
    """The prompt by its id or how that ends; without one the newest that failed or was stopped and was not run again since."""
    if reference is not None and re.fullmatch(r"prm_[A-Za-z0-9]{20,}", reference):
        return reference
    retried: set[str] = set()
    for body in _newest_first(api, session_id):
        if body["kind"] == "prompt.queued":
            if reference and body["prompt_id"].endswith(reference):
                return body["prompt_id"]
            if body.get("retry_of"):
                retried.add(body["retry_of"])
        elif (
            reference is None
            and body["kind"] == "turn.finished"
            and body["status"] in ("failed", "stopped")
            and body["prompt_id"] not in retried
        ):
            return body["prompt_id"]
    if reference is None:
        raise Invalid(
            "nothing_to_retry",
            "No prompt of this session has failed or was stopped, or each was run again already.",
            f'Give it another: {program()} sessions prompt {session_id} "TEXT"',
        )
    raise Invalid(
        "prompt_unknown",
        f"No prompt of this session ends with “{reference}”.",
        f"A prompt that failed is shown with its id: {program()} sessions show {session_id}",
    )


def _newest_first(api: Client, session_id: str) -> Iterator[dict[str, Any]]:
    before: int | None = None
    while before is None or before > 1:
        page = api.get(f"/sessions/{session_id}/events", before=before, limit=1000)
        if not page["events"]:
            return
        for event in reversed(page["events"]):
            yield event["body"]
        before = page["events"][0]["seq"]
