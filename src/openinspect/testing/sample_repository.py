"""A small real git repository with one bug, for the demo, the tests and whoever wants to try the system.

It holds a tiny Python package (`lending`) with three modules, its tests, a README and a short history. One function
rounds wrongly, so exactly one test fails with `python3 -m unittest`. Nothing but git and Python is needed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from textwrap import dedent

AUTHOR_NAME = "Sample Author"
AUTHOR_EMAIL = "sample.author@example.com"
GIT_TIMEOUT_S = 30

_README = """\
# lending

What a small library needs to know about a loan: when it is due, what it costs to be late, how long the shelf gets.

    python3 -m unittest
"""

_INIT = '''\
"""Loans of a small library."""

from lending.dates import due_date
from lending.fees import late_fee
from lending.shelves import boards_needed

__all__ = ["boards_needed", "due_date", "late_fee"]
'''

_DATES = '''\
"""When a loan is due."""

from datetime import date, timedelta

LOAN_DAYS = 28
EXTENSION_DAYS = 14


def due_date(borrowed: date, extensions: int = 0) -> date:
    """The last day of a loan.

    >>> due_date(date(2026, 3, 2))
    datetime.date(2026, 3, 30)
    """
    return borrowed + timedelta(days=LOAN_DAYS + extensions * EXTENSION_DAYS)


def days_late(due: date, returned: date) -> int:
    """How many days after the due date something came back; never less than none."""
    return max(0, (returned - due).days)
'''

_FEES = '''\
"""What it costs to be late. Amounts are in cents."""

DAYS_PER_WEEK = 7
CENTS_PER_WEEK = 150
HIGHEST_FEE = 3000


def weeks_begun(days: int) -> int:
    """How many weeks have begun after so many days; a week that has begun counts as a whole one.

    >>> weeks_begun(7)
    1
    >>> weeks_begun(8)
    2
    """
    return days // DAYS_PER_WEEK + 1


def late_fee(days: int) -> int:
    """The fee for being so many days late, at most HIGHEST_FEE."""
    if days <= 0:
        return 0
    return min(weeks_begun(days) * CENTS_PER_WEEK, HIGHEST_FEE)
'''

_FEES_AT_FIRST = '''\
"""What it costs to be late. Amounts are in cents."""

CENTS_PER_DAY = 20


def late_fee(days: int) -> int:
    """The fee for being so many days late."""
    return max(0, days) * CENTS_PER_DAY
'''

_SHELVES = '''\
"""How much room the books need."""

BOARD_MILLIMETRES = 800


def boards_needed(thicknesses: list[int]) -> int:
    """How many shelf boards hold books of these thicknesses (millimetres), filled in order.

    >>> boards_needed([300, 300, 300])
    2
    """
    boards, room = 0, 0
    for thickness in thicknesses:
        if thickness > room:
            boards, room = boards + 1, BOARD_MILLIMETRES
        room -= thickness
    return boards
'''

_TEST_DATES = """\
import unittest
from datetime import date

from lending.dates import days_late, due_date


class DueDateTest(unittest.TestCase):
    def test_a_loan_lasts_four_weeks(self):
        self.assertEqual(due_date(date(2026, 3, 2)), date(2026, 3, 30))

    def test_an_extension_adds_two_weeks(self):
        self.assertEqual(due_date(date(2026, 3, 2), extensions=1), date(2026, 4, 13))

    def test_early_is_not_late(self):
        self.assertEqual(days_late(date(2026, 3, 30), date(2026, 3, 28)), 0)
"""

_TEST_FEES = """\
import unittest

from lending.fees import HIGHEST_FEE, late_fee, weeks_begun


class FeesTest(unittest.TestCase):
    def test_a_week_that_has_begun_counts(self):
        self.assertEqual(weeks_begun(8), 2)

    def test_a_full_week_is_one_week(self):
        self.assertEqual(weeks_begun(7), 1)

    def test_on_time_costs_nothing(self):
        self.assertEqual(late_fee(0), 0)

    def test_the_fee_has_a_limit(self):
        self.assertEqual(late_fee(1000), HIGHEST_FEE)
"""

_TEST_SHELVES = """\
import unittest

from lending.shelves import boards_needed


class BoardsTest(unittest.TestCase):
    def test_no_books_need_no_board(self):
        self.assertEqual(boards_needed([]), 0)

    def test_a_board_is_filled_before_the_next(self):
        self.assertEqual(boards_needed([300, 300, 300]), 2)
"""

_GITIGNORE = """\
__pycache__/
*.pyc
.venv/
"""

_HISTORY: list[tuple[str, str, dict[str, str]]] = [
    (
        "2026-02-02T09:00:00+00:00",
        "Say when a loan is due",
        {
            "README.md": _README,
            ".gitignore": _GITIGNORE,
            "lending/__init__.py": '"""Loans of a small library."""\n',
            "lending/dates.py": _DATES,
            "tests/__init__.py": "",
            "tests/test_dates.py": _TEST_DATES,
        },
    ),
    (
        "2026-02-03T10:30:00+00:00",
        "Ask a fee for late returns",
        {"lending/fees.py": _FEES_AT_FIRST},
    ),
    (
        "2026-02-05T14:15:00+00:00",
        "Count the boards that the books need",
        {
            "lending/shelves.py": _SHELVES,
            "lending/__init__.py": _INIT,
            "tests/test_shelves.py": _TEST_SHELVES,
        },
    ),
    (
        "2026-02-09T11:45:00+00:00",
        dedent("""\
            Ask the late fee by the week, with a limit

            A fee per day annoyed people who were one day late as much as it
            failed to move those who were a year late."""),
        {"lending/fees.py": _FEES, "tests/test_fees.py": _TEST_FEES},
    ),
]


class SampleRepositoryError(Exception):
    """The sample repository can't be made; the text says why."""


def create_sample_repository(path: Path, *, branch: str = "main") -> None:
    """Make the repository at `path`, which must not exist yet or be an empty folder.

    The same commits come out every time. Raises SampleRepositoryError.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SampleRepositoryError(f"{path} is there already and not an empty folder; choose another place")
    try:
        path.mkdir(parents=True, exist_ok=True)
        _git(path, "init", "--quiet", f"--initial-branch={branch}")
        _git(path, "config", "user.name", AUTHOR_NAME)
        _git(path, "config", "user.email", AUTHOR_EMAIL)
        _git(path, "config", "commit.gpgsign", "false")
        for at, message, files in _HISTORY:
            for name, content in files.items():
                (path / name).parent.mkdir(exist_ok=True)
                (path / name).write_text(content, encoding="utf-8")
            _git(path, "add", "--all")
            _git(path, "commit", "--quiet", "--no-verify", f"--message={message}", at=at)
    except OSError as error:
        raise SampleRepositoryError(f"{path} can't be written: {error.strerror}") from error


def _git(path: Path, *arguments: str, at: str | None = None) -> None:
    # The person's own git configuration (templates, hooks, signing) must not reach the sample.
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(path),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_TEMPLATE_DIR": "",
        "LC_ALL": "C",
    }
    if at is not None:
        environment |= {"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}
    try:
        subprocess.run(
            ["git", *arguments],
            cwd=path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise SampleRepositoryError(
            "git is not installed; install it with the system's package manager"
        ) from error
    except subprocess.CalledProcessError as error:
        raise SampleRepositoryError(f"git {arguments[0]} failed in {path}: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise SampleRepositoryError(
            f"git {arguments[0]} took more than {GIT_TIMEOUT_S} s in {path}"
        ) from error
