"""Silence is not death: nothing ends a turn, or its sandbox, because it says nothing. The clock is shortened: idle after 5 s, silent for 25."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from openinspect.testing.live_server import LiveServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(
        tmp_path_factory.mktemp("quiet") / "data",
        OPENINSPECT_SANDBOX_IDLE_SECONDS="5",
        OPENINSPECT_SANDBOX_DISK_MIB="256",
    ) as server:
        yield server


def test_a_silent_tool_is_left_alone_and_an_idle_sandbox_is_not(quiet: LiveServer) -> None:
    session_id, prompt_id = quiet.session("sleep 25\nsay: still here")
    quiet.wait(session_id, "tool.started", 120)
    time.sleep(3)  # nobody watches
    for pid in quiet.processes("openinspect.runtime.bridge"):
        os.kill(pid, signal.SIGKILL)  # and the bridge comes back in the middle of the silence
    finished = quiet.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)["body"]
    assert finished["status"] == "completed", finished
    # with nothing running any more the same clock does end the sandbox, and keeps the files
    stopped = quiet.wait(session_id, "sandbox.changed", 60, state="stopped")["body"]
    assert stopped["reason"]
    again = quiet.prompt(session_id, "say: back again")
    assert quiet.wait(session_id, "turn.finished", 120, prompt_id=again)["body"]["status"] == "completed"
