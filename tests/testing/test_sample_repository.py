import subprocess
from pathlib import Path

import pytest

from openinspect.testing import create_sample_repository
from openinspect.testing.sample_repository import SampleRepositoryError

from .conftest import git


def unittest(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["python3", "-m", "unittest"], cwd=path, capture_output=True, text=True, timeout=30)


def test_exactly_one_test_fails(sample: Path):
    done = unittest(sample)
    assert done.returncode == 1
    assert "Ran 9 tests" in done.stderr
    assert "FAILED (failures=1)" in done.stderr
    assert git(sample, "status", "--porcelain") == ""


def test_the_right_line_repairs_it(sample: Path):
    fees = sample / "lending/fees.py"
    fees.write_text(
        fees.read_text().replace("days // DAYS_PER_WEEK + 1", "(days + DAYS_PER_WEEK - 1) // DAYS_PER_WEEK")
    )
    assert unittest(sample).returncode == 0


def test_the_history_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.gitconfig").write_text("[user]\nname = Other\n[commit]\ngpgsign = true\n")
    create_sample_repository(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    create_sample_repository(tmp_path / "b", branch="trunk")
    assert git(tmp_path / "a", "rev-parse", "HEAD") == git(tmp_path / "b", "rev-parse", "HEAD")
    assert git(tmp_path / "b", "branch", "--show-current").strip() == "trunk"
    assert git(tmp_path / "a", "log", "--format=%an").splitlines() == ["Sample Author"] * 4


def test_a_place_that_is_taken_is_refused(tmp_path: Path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(SampleRepositoryError, match="not an empty folder"):
        create_sample_repository(tmp_path)
    with pytest.raises(SampleRepositoryError, match="not an empty folder"):
        create_sample_repository(tmp_path / "mine")


def test_without_git_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SampleRepositoryError, match="git is not installed"):
        create_sample_repository(tmp_path / "new")
