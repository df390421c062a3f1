from __future__ import annotations

import time
from pathlib import Path

import pytest

from setup import report
from setup.report import Failure, environment, explain, run


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "LOGS", tmp_path / "log")
    return tmp_path / "log"


def _run(script: str, seconds: float = 30.0, cwd: Path = Path("/")) -> str:
    return run(
        ["sh", "-c", script], what="the step", remedy="try harder", log="step", seconds=seconds, cwd=cwd
    )


def test_what_a_program_printed_is_returned_and_kept(logs: Path) -> None:
    assert _run("echo out; echo err >&2") == "out\nerr\n"
    assert (logs / "step.log").read_text() == "out\nerr\n"


def test_a_failure_shows_beginning_and_end_of_the_output() -> None:
    with pytest.raises(Failure) as caught:
        _run("echo the cause; seq 1 500; echo the end; exit 3")
    assert "exit code 3" in caught.value.why
    assert "the cause" in caught.value.why and "the end" in caught.value.why
    assert "250" not in caught.value.why
    assert caught.value.remedy == "try harder"


def test_a_missing_program_is_a_failure() -> None:
    with pytest.raises(Failure, match="could not be started: No such file"):
        run(["/nowhere/program"], what="the step", remedy="", log="step", seconds=5, cwd=Path("/"))


def test_a_program_that_hangs_is_ended_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(Failure, match="took longer than"):
        _run("exec sleep 60", seconds=0.3)
    assert time.monotonic() - begun < 20


def test_what_would_mislead_python_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "NODE_OPTIONS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.com/simple")
    env = environment({"EXTRA": "1"})
    assert not {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "NODE_OPTIONS"} & env.keys()
    assert env["PIP_INDEX_URL"] == "https://index.example.com/simple"
    assert env["EXTRA"] == "1"


def test_caches_stay_in_the_checkout_unless_somebody_chose_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR", "npm_config_cache", "NPM_CONFIG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert Path(environment()["UV_CACHE_DIR"]).is_relative_to(report.CACHE)
    assert Path(environment()["npm_config_cache"]).is_relative_to(report.CACHE)
    monkeypatch.setenv("UV_CACHE_DIR", "/elsewhere")
    assert environment()["UV_CACHE_DIR"] == "/elsewhere"


def test_a_failure_says_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    explain(Failure("the step", "a reason", "a remedy"))
    assert capsys.readouterr().err == "\nset-up failed: the step\nWhy: a reason\nWhat to do: a remedy\n"
