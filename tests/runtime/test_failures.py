"""What a failed model call is told as."""

from __future__ import annotations

from openinspect.runtime.agents.opencode.client import ErrorInfo
from openinspect.runtime.agents.opencode.failures import failed, given_up, plain

BUN = "The socket connection was closed unexpectedly. For more information, pass `verbose: true` in the second argument to fetch()"


def test_advice_for_programmers_is_left_out() -> None:
    assert plain(BUN) == "The connection was cut before the answer was whole."
    assert plain("Overloaded") == "Overloaded"
    for told in (failed(ErrorInfo(name="APIError", data={"message": BUN})), given_up(BUN, 8)):
        assert "verbose" not in told.reason and "The connection was cut" in told.reason
