"""Booting: repositories, hooks and what goes wrong with them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from .box import FakeBox, git, lives, make_repository
from .door import AGENT_TOKEN, Door

pytestmark = pytest.mark.anyio


async def test_one_repository_lies_at_a_fixed_place(
    fake_box: FakeBox, door: Door, repositories: Path
) -> None:
    fake_box.configure()
    await door.ready()
    repo = fake_box.workspace / "repo"
    assert (repo / "widgets.py").exists()
    assert (fake_box.workspace / "widgets").resolve() == repo
    (checked_out,) = door.of("checked_out")
    assert checked_out.base_sha == git(repositories / "widgets", "rev-parse", "main")
    assert (checked_out.directory, checked_out.branch, checked_out.restored) == (
        "widgets",
        "open-inspect/work",
        False,
    )
    assert git(repo, "symbolic-ref", "--short", "HEAD") == "open-inspect/work"
    assert git(repo, "status", "--porcelain") == ""
    steps = [(event.step, event.state) for event in door.of("boot.step")]
    for step in ("clone", "agent"):
        assert (step, "started") in steps and (step, "completed") in steps
    assert set(door.git_headers) == {f"Bearer {AGENT_TOKEN}"}
    assert AGENT_TOKEN not in fake_box.log + (repo / ".git" / "config").read_text()


async def test_several_lie_side_by_side(fake_box: FakeBox, door: Door, repositories: Path) -> None:
    make_repository(repositories, "gadgets", {"a.txt": "a\n"})
    fake_box.configure(["widgets", "gadgets"])
    await door.ready()
    assert (fake_box.workspace / "widgets" / "widgets.py").exists()
    assert (fake_box.workspace / "gadgets" / "a.txt").exists()
    assert not (fake_box.workspace / "repo").exists()


async def test_a_session_without_repository_has_an_empty_workspace(fake_box: FakeBox, door: Door) -> None:
    fake_box.configure([])
    await door.ready()
    turn = fake_box.prompt("prm_1", "run: pwd")
    await door.ended(turn)
    assert door.of("tool.finished")[0].output.strip() == str(fake_box.workspace)


async def test_an_empty_repository_begins_with_its_first_commit(
    fake_box: FakeBox, door: Door, repositories: Path
) -> None:
    git(repositories, "init", "-q", "--bare", "-b", "main", "blank")
    fake_box.configure(["blank"])
    await door.ready()
    assert "is empty" in door.of("warning")[0].message
    repo = fake_box.workspace / "repo"
    assert git(repo, "symbolic-ref", "--short", "HEAD") == "open-inspect/work"
    turn = fake_box.prompt("prm_1", "run: echo 1 > one && git add . && git commit -qm First && git push -q")
    ended = await door.ended(turn)
    assert ended.outcome == "completed" and door.of("tool.finished")[0].state == "completed", door.bodies[-4:]
    (commit,) = door.of("commit", turn)
    assert commit.subject == "First" and commit.author == "Ada Example <ada@example.invalid>"
    assert git(repositories / "blank", "rev-parse", "open-inspect/work") == commit.sha
    assert door.diffs["blank"]["files"][0]["path"] == "one"


@pytest.mark.parametrize("empty", [False, True])
async def test_a_repository_of_another_object_format_is_worked_on_as_what_it_is(
    fake_box: FakeBox, door: Door, repositories: Path, empty: bool
) -> None:
    make_repository(repositories, "modern", {} if empty else {"a.txt": "a\n"}, object_format="sha256")
    fake_box.configure(["modern"])
    await door.ready()
    repo = fake_box.workspace / "repo"
    assert git(repo, "rev-parse", "--show-object-format") == "sha256"
    (checked_out,) = door.of("checked_out")
    began = git(repo, "hash-object", "-t", "tree", "/dev/null")
    assert checked_out.base_sha == (began if empty else git(repositories / "modern", "rev-parse", "main"))
    turn = fake_box.prompt("prm_1", "run: echo 1 > one && git add . && git commit -qm First && git push -q")
    ended = await door.ended(turn)
    assert ended.outcome == "completed" and door.of("tool.finished")[0].state == "completed", door.bodies[-4:]
    (commit,) = door.of("commit", turn)
    assert git(repositories / "modern", "rev-parse", "open-inspect/work") == commit.sha
    (file,) = door.diffs["modern"]["files"]
    assert (file["path"], file["additions"]) == ("one", 1)


async def test_commits_without_a_branch_are_no_empty_repository(
    fake_box: FakeBox, door: Door, repositories: Path
) -> None:
    detached = repositories / "widgets"
    git(detached, "update-ref", "--no-deref", "HEAD", git(detached, "rev-parse", "main"))
    git(detached, "branch", "-D", "main")
    fake_box.configure()
    (failed,) = await door.until(lambda: door.of("sandbox.failed"))
    assert "no branch" in failed.reason and "git switch -c main" in failed.remedy


@pytest.mark.parametrize(
    ("name", "branch", "reason", "remedy"),
    [
        ("widgets", "nowhere", "has no branch “nowhere”", "main"),
        ("missing", "main", "could not be fetched", "retry"),
    ],
)
async def test_what_can_not_be_fetched_is_a_clear_failure(
    fake_box: FakeBox, door: Door, name: str, branch: str, reason: str, remedy: str
) -> None:
    fake_box.configure([name], base_branch=branch)
    (failed,) = await door.until(lambda: door.of("sandbox.failed"))
    assert reason in failed.reason and remedy in failed.remedy
    assert fake_box.process is not None
    async with asyncio.timeout(10):
        assert await fake_box.process.wait() == 1


async def test_a_fetch_that_takes_too_long_is_ended(fake_box: FakeBox, door: Door) -> None:
    door.git_pause = 5.0
    fake_box.configure(clone_seconds=1)
    (failed,) = await door.until(lambda: door.of("sandbox.failed"))
    assert "within 1 s" in failed.reason and "raise the time" in failed.remedy


async def test_what_is_there_is_kept(tmp_path: Path, door: Door) -> None:
    root = tmp_path / "box"
    async with FakeBox(root, door) as first:
        first.configure()
        await door.ready()
        (first.workspace / "repo" / "mine.txt").write_text("precious\n")
        (first.workspace / ".fetching-widgets").mkdir()
    door.events.clear()
    door.counted = 0
    door.commands.clear()
    door._commands_made = 0
    shutil.rmtree(root / "state")
    async with FakeBox(root, door, sandbox_id="box_2") as second:
        second.configure()
        await door.ready()
        assert door.of("checked_out")[0].restored
        assert (second.workspace / "repo" / "mine.txt").read_text() == "precious\n"
        assert not (second.workspace / ".fetching-widgets").exists()


async def test_work_that_was_pushed_is_gone_on_with(
    fake_box: FakeBox, door: Door, repositories: Path
) -> None:
    work = repositories / "widgets.work"
    base = git(work, "rev-parse", "HEAD")
    git(work, "checkout", "-q", "-b", "open-inspect/work")
    (work / "more.txt").write_text("more\n")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "More")
    git(work, "push", "-q", str(repositories / "widgets"), "open-inspect/work")
    fake_box.configure(base_sha=base)
    await door.ready()
    assert (fake_box.workspace / "repo" / "more.txt").exists()
    assert door.of("checked_out")[0].base_sha == base


async def test_hooks_run_as_they_should(tmp_path: Path, repositories: Path, door: Door) -> None:
    make_repository(
        repositories,
        "hooked",
        {
            ".openinspect/setup.sh": "echo setting up; echo $OPENINSPECT_BOOT_MODE > setup.txt; exit 3\n",
            ".openinspect/start.sh": "echo starting; echo $OPENINSPECT_BOOT_MODE >> start.txt; sleep 1000 & echo $! > pid\n",
        },
    )
    root = tmp_path / "box"
    async with FakeBox(root, door) as box:
        box.configure(["hooked"])
        await door.ready()
        repo = box.workspace / "repo"
        assert (repo / "setup.txt").read_text() == "fresh\n" and (repo / "start.txt").read_text() == "fresh\n"
        assert "exit code 3" in door.of("warning")[0].message
        logs = "".join(event.text for event in door.of("boot.log"))
        assert "setting up" in logs and "starting" in logs
        service = int((repo / "pid").read_text())
        # What start left running outlives a stop, what a turn left does not.
        turn = box.prompt("prm_1", "run: sleep 2000 & sleep 3000")
        await door.until(lambda: box.pids("sleep", "3000"))
        box.stop(turn)
        assert (await door.ended(turn)).outcome == "stopped"
        assert lives(service)
        assert not box.pids("sleep", "2000") and not box.pids("sleep", "3000")
        # Without a turn and with only what start left, the sandbox is idle.
        await door.until(lambda: door.beats and door.beats[-1].processes == 0)
    assert not lives(service)


async def test_a_start_that_fails_ends_the_boot(fake_box: FakeBox, door: Door, repositories: Path) -> None:
    make_repository(repositories, "hooked", {".openinspect/start.sh": "echo it is broken; exit 7\n"})
    fake_box.configure(["hooked"])
    (failed,) = await door.until(lambda: door.of("sandbox.failed"))
    assert "exit code 7" in failed.reason and "it is broken" in failed.log_tail


async def test_a_start_that_hangs_is_ended(fake_box: FakeBox, door: Door, repositories: Path) -> None:
    make_repository(repositories, "hooked", {".openinspect/start.sh": "sleep 1000\n"})
    fake_box.configure(["hooked"], start_seconds=1)
    (failed,) = await door.until(lambda: door.of("sandbox.failed"))
    assert "ended after 1 s" in failed.reason


async def test_long_output_of_a_hook_is_bounded(fake_box: FakeBox, door: Door, repositories: Path) -> None:
    make_repository(repositories, "hooked", {".openinspect/setup.sh": "seq 1 200000; echo the very end\n"})
    fake_box.configure(["hooked"])
    await door.ready()
    logs = "".join(event.text for event in door.of("boot.log"))
    assert len(logs) < 400_000 and "left out" in logs and "the very end" in logs


async def test_an_agent_that_can_not_be_started_is_a_clear_failure(tmp_path: Path, door: Door) -> None:
    box = FakeBox(tmp_path / "box", door)
    box.env["REFUSE_STARTS"] = "100"
    async with box:
        (failed,) = await door.until(lambda: door.of("sandbox.failed"))
        assert "does not want to" in failed.reason and failed.log_tail == "the fake agent's log"
        assert len(door.of("agent.restarted")) == 5


async def test_an_agent_that_starts_late_is_waited_for(tmp_path: Path, door: Door) -> None:
    box = FakeBox(tmp_path / "box", door)
    box.env["REFUSE_STARTS"] = "2"
    async with box:
        box.configure()
        await door.ready()
        assert len(door.of("agent.restarted")) == 2
