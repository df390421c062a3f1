"""OpenCode's errors in a person's words: what happened, why, what to do."""

from __future__ import annotations

import re

from openinspect.runtime.agents.contract import TurnResult
from openinspect.runtime.wording import line

from .client import ErrorInfo

MAX_RETRIES = 8
"""Of one call, after which a model that keeps refusing is given up."""
LONGEST_WAIT_SECONDS = 600.0
"""A provider that asks for more patience is given up at once."""

_BY_STATUS = {
    401: ("The model's provider refused the key", "Ask an administrator to check the provider's key."),
    402: (
        "The model's provider asks for payment",
        "Check the account at the provider, or choose another model.",
    ),
    403: (
        "The model's provider refused the request",
        "Check that the account may use this model, or choose another one.",
    ),
    404: ("The model's provider does not know this model", "Choose another model."),
    413: (
        "The conversation is too long for the model",
        "Start a new session, or choose a model with a larger context.",
    ),
    429: (
        "The model's provider limits how much may be asked",
        "Wait a while and retry, or choose another model.",
    ),
}


_BUNS_ADVICE = re.compile(
    r"\s*For more information, pass `verbose: true` in the second argument to fetch\(\)\.?"
)
_CUT = re.compile(r"The socket connection was closed unexpectedly\.?")


def plain(message: str) -> str:
    """What the agent says of a failed call, without what its JavaScript runtime advises programmers to do."""
    return _CUT.sub(
        "The connection was cut before the answer was whole.", _BUNS_ADVICE.sub("", message)
    ).strip()


def failed(error: ErrorInfo) -> TurnResult:
    """How a turn ends that this error ended."""
    said = line(plain(str(error.data.get("message") or "")), 600)
    status = error.data.get("statusCode")
    tail = f": {said}" if said else "."
    match error.name:
        case "MessageAbortedError":
            return TurnResult("stopped")
        case "ContextOverflowError":
            return TurnResult(
                "failed",
                f"The conversation is too long for the model{tail}",
                "Start a new session, or choose a model with a larger context.",
            )
        case "MessageOutputLengthError":
            return TurnResult(
                "failed",
                "The model's answer was longer than it may be.",
                "Ask for the work in smaller pieces.",
            )
        case "ProviderAuthError":
            what, remedy = _BY_STATUS[401]
            return TurnResult("failed", f"{what}{tail}", remedy)
        case "ContentFilterError":
            return TurnResult(
                "failed", f"The model's provider filtered the answer{tail}", "Word the prompt differently."
            )
        case _:
            pass
    if isinstance(status, int):
        what, remedy = _BY_STATUS.get(
            status,
            (f"The model's provider failed (HTTP {status})", "Retry; if it lasts, choose another model.")
            if status >= 500
            else (
                f"The model's provider refused the request (HTTP {status})",
                "Look at the reason; change the prompt or the model.",
            ),
        )
        return TurnResult("failed", f"{what}{tail}", remedy)
    return TurnResult("failed", f"The agent failed{tail}", "Retry; what is already done is kept.")


def given_up(message: str, attempts: int) -> TurnResult:
    """A model that refused again and again."""
    return TurnResult(
        "failed",
        line(f"The model's provider did not answer after {attempts} attempts: {plain(message)}"),
        "Wait a while and retry, or choose another model.",
    )
