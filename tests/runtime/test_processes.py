"""Programs that misbehave: endless, silent, or leaving something behind that holds their output."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from openinspect.runtime.processes import Account, LogTail, run, start_time

from .box import lives

pytestmark = pytest.mark.anyio
_ENV = {"PATH": "/usr/bin:/bin"}


async def test_output_error_and_code_are_given(tmp_path: Path) -> None:
    done = await run(
        ["sh", "-c", "cat; echo bad >&2; exit 3"], Account(), cwd=tmp_path, env=_ENV, seconds=20, stdin=b"in"
    )
    assert (done.code, done.stdout, done.stderr, done.timed_out, done.cut) == (
        3,
        b"in",
        b"bad\n",
        False,
        False,
    )


async def test_what_stays_behind_with_the_output_does_not_hold_us(tmp_path: Path) -> None:
    began = time.monotonic()
    done = await run(["sh", "-c", "setsid sleep 60 & echo $!"], Account(), cwd=tmp_path, env=_ENV, seconds=20)
    assert time.monotonic() - began < 10 and done.code == 0
    os.kill(int(done.stdout), 9)


async def test_time_and_output_are_bounded(tmp_path: Path) -> None:
    done = await run(["sh", "-c", "sleep 60 & echo $!; wait"], Account(), cwd=tmp_path, env=_ENV, seconds=0.5)
    assert done.timed_out
    async with asyncio.timeout(5):
        while lives(int(done.stdout)):  # noqa: ASYNC110 - a process that is killed tells nobody
            await asyncio.sleep(0.01)
    done = await run(["yes"], Account(), cwd=tmp_path, env=_ENV, seconds=20, bound=10_000)
    assert done.cut and len(done.stdout) == 10_000


async def test_what_can_not_be_started_is_an_error(tmp_path: Path) -> None:
    for command, folder in ((["/nonexistent/program"], tmp_path), (["true"], tmp_path / "none")):
        with pytest.raises(OSError, match="No such file"):
            await run(command, Account(), cwd=folder, env=_ENV, seconds=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another account")
async def test_an_account_has_no_rights_of_ours() -> None:
    done = await run(
        ["sh", "-c", "id; umask; cat /etc/shadow"], Account(23_456, 23_457), cwd="/", env=_ENV, seconds=20
    )
    assert done.stdout.startswith(b"uid=23456 gid=23457 groups=23457\n0022\n") and b"denied" in done.stderr


def test_a_tail_is_bounded() -> None:
    tail = LogTail(100)
    for number in range(1_000):
        tail.add(f"{number}\n")
    assert len(tail.text) == 100 and tail.text.endswith("999\n")
    tail.add("x" * 500 + "end")
    assert len(tail.text) == 100 and tail.text.endswith("xend")


def test_a_process_has_one_start_time() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid()) is not None
    assert start_time(2**22 + 1) is None
