"""Where one left a session is kept without ever failing the command that keeps it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openinspect.cli import cursors


def test_commands_that_end_together_keep_their_places(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as several:
        reasons = list(several.map(lambda n: cursors.keep(tmp_path, f"ses_{n % 4}", n), range(40)))
    assert reasons == [None] * 40
    assert set(cursors.read(tmp_path)) <= {f"ses_{n}" for n in range(4)}
    assert [path.name for path in tmp_path.iterdir()] == ["cli-cursors.json"]


def test_a_place_that_can_not_be_kept_is_a_word_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "cli-cursors.json").mkdir()  # nothing can be written in its place, not even by root
    assert cursors.keep(tmp_path, "ses_1", 7)
    assert cursors.read(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["cli-cursors.json"]


def test_without_a_data_folder_nothing_is_kept(tmp_path: Path) -> None:
    assert cursors.keep(tmp_path / "nowhere", "ses_1", 7) is None
    assert not (tmp_path / "nowhere").exists()


def test_all_are_forgotten_when_the_database_is_put_back(tmp_path: Path) -> None:
    cursors.forget(tmp_path)  # there are none yet
    cursors.keep(tmp_path, "ses_1", 7)
    cursors.forget(tmp_path)
    assert cursors.read(tmp_path) == {}
