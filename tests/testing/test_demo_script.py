"""The demo's script, driven by a small agent that really runs the tools."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from openinspect.testing import ScriptedModel

from .conftest import SmallAgent, git

PROMPT = "Fix the failing test, please."


@pytest.fixture
def demo(model: ScriptedModel) -> ScriptedModel:
    model.play("demo")
    return model


def break_otherwise(sample: Path, name: str, old: str, new: str) -> None:
    """Repair the shipped bug and make another one."""
    fees = sample / "lending/fees.py"
    fees.write_text(
        fees.read_text().replace("days // DAYS_PER_WEEK + 1", "(days + DAYS_PER_WEEK - 1) // DAYS_PER_WEEK")
    )
    path = sample / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    git(sample, "commit", "--quiet", "--all", "--message=Move the bug")


def head(sample: Path) -> str:
    return git(sample, "rev-parse", "HEAD").strip()


def test_the_bug_is_repaired_committed_and_pushed(demo: ScriptedModel, sample: Path):
    agent = SmallAgent(demo, sample)
    said = agent.run(PROMPT)
    assert said.startswith("Done.")
    assert agent.commands == ["python3", "grep", "read", "edit", "python3", "git", "git"]
    subprocess.run(["python3", "-m", "unittest"], cwd=sample, check=True, capture_output=True, timeout=30)
    assert git(sample.parent / "origin.git", "rev-parse", "main").strip() == head(sample)
    assert git(sample, "status", "--porcelain") == ""


def test_a_pull_request_is_opened_when_the_tool_is_offered(demo: ScriptedModel, sample: Path):
    opened: list[dict[str, Any]] = []

    def open_one(arguments: dict[str, Any]) -> str:
        opened.append(arguments)
        return "Pull request #1: http://127.0.0.1/pulls/1"

    git(sample, "switch", "--quiet", "--create", "session/1")
    said = SmallAgent(demo, sample, {"openinspect_create_pull_request": open_one}).run(PROMPT)
    assert "http://127.0.0.1/pulls/1" in said
    assert "session/1" in said
    assert set(opened[0]) == {"title", "body"}
    assert "weeks_begun" in opened[0]["title"]
    assert "test_a_full_week_is_one_week" in opened[0]["body"]


def test_a_refused_pull_request_is_told(demo: ScriptedModel, sample: Path):
    def refuse(_: dict[str, Any]) -> str:
        return "Error: the session has no repository"

    said = SmallAgent(demo, sample, {"x_create_pull_request": refuse}).run(PROMPT)
    assert "could not be opened" in said
    assert "no repository" in said


def test_a_refused_push_is_told(demo: ScriptedModel, sample: Path):
    git(sample, "remote", "set-url", "origin", str(sample.parent / "nowhere.git"))
    said = SmallAgent(demo, sample).run(PROMPT)
    assert "could not be pushed" in said


def test_without_a_bug_nothing_is_done(demo: ScriptedModel, sample: Path):
    break_otherwise(sample, "README.md", "lending", "lending")
    agent = SmallAgent(demo, sample)
    assert "nothing to repair" in agent.run(PROMPT)
    assert agent.commands == ["python3"]


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("lending/shelves.py", "boards, room = 0, 0", "boards, room = 1, 0", "can't find the cause"),
        ("lending/shelves.py", "room -= thickness", "room += thickness", "can't find the cause"),
        ("lending/dates.py", "max(0, (returned - due).days)", "(returned - due).days", "can't find"),
        ("lending/dates.py", "EXTENSION_DAYS = 14", "EXTENSION_DAYS = 7", "can't find"),
        (
            "lending/fees.py",
            "if days <= 0:",
            "if days < 0:\n        return 1\n    if days == 0:\n        return 5\n    if days < 0:",
            "can't find",
        ),
        ("lending/dates.py", "def due_date", "def due_date(:\n", "can't find"),
    ],
)
def test_another_bug_elsewhere_is_not_repaired_and_it_says_so(
    demo: ScriptedModel, sample: Path, name: str, old: str, new: str, says: str
):
    break_otherwise(sample, name, old, new)
    before = head(sample)
    said = SmallAgent(demo, sample).run(PROMPT)
    assert says in said
    assert head(sample) == before
    assert git(sample, "status", "--porcelain") == ""


def test_the_same_mistake_elsewhere_is_found_by_following_the_output(demo: ScriptedModel, sample: Path):
    """Proof that no file, function or line is in the script."""
    fees = sample / "lending/fees.py"
    moved = (
        fees.read_text()
        .replace("weeks_begun", "rounded_up")
        .replace("days", "amount")
        .replace("DAYS_PER_WEEK", "SIZE")
    )
    fees.unlink()
    (sample / "lending/fines.py").write_text(moved)
    for path in [*sample.glob("tests/*.py"), sample / "lending/__init__.py"]:
        path.write_text(
            path.read_text().replace("weeks_begun", "rounded_up").replace("lending.fees", "lending.fines")
        )
    git(sample, "add", "--all")
    git(sample, "commit", "--quiet", "--message=Move everything")
    assert "rounded_up" in SmallAgent(demo, sample).run(PROMPT)
    assert "return (amount + SIZE - 1) // SIZE" in (sample / "lending/fines.py").read_text()


def test_a_second_bug_keeps_it_from_committing(demo: ScriptedModel, sample: Path):
    shelves = sample / "lending/shelves.py"
    shelves.write_text(shelves.read_text().replace("room -= thickness", "room += thickness"))
    fees_test = sample / "tests/test_fees.py"
    (sample / "tests/test_a.py").write_text(fees_test.read_text())
    before = head(sample)
    said = SmallAgent(demo, sample).run(PROMPT)
    assert "still fail" in said
    assert head(sample) == before


def test_other_prompts_get_the_playground_or_an_explanation(demo: ScriptedModel, sample: Path):
    agent = SmallAgent(demo, sample)
    assert agent.run("say: hello").startswith("hello")
    said = agent.run("Write a poem about the sea")
    assert "not a language model" in said
    assert "ANTHROPIC_API_KEY" in said
    assert "“Fix the failing test”" in said
    assert "“run: make test”" in said
