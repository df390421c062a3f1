"""What goes wrong at the command line is one line that says what happened and one that says what to do; never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from openinspect.cli import words
from openinspect.cli.client import CLONE_SECONDS, ServerRecord, process_started
from openinspect.forges.local.cloning import CloneLimits
from openinspect.problems import Invalid
from openinspect.settings import Settings


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENINSPECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "openinspect", *arguments],
        env={**kept, "OPENINSPECT_DATA_DIR": str(folder), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def _refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: " in done.stderr
    assert "→" in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_without_a_server(tmp_path: Path) -> None:
    _refused(_run(tmp_path, "sessions", "list"), "No server runs", "openinspect up")
    done = _run(tmp_path, "down")
    assert done.returncode == 0
    assert "No server runs" in done.stdout


def test_what_is_no_backup_is_not_restored(tmp_path: Path) -> None:
    nowhere, readme, data = tmp_path / "nowhere", tmp_path / "README.md", tmp_path / "data"
    readme.write_text("# Not a backup")
    done = _run(data, "db", "restore", "-y", str(nowhere))
    _refused(done, "There is no file", "Name a file that")
    assert "backups" not in done.stderr  # nothing is there to look at
    (data / "backups").mkdir(parents=True)
    _refused(_run(data, "db", "restore", "-y", str(nowhere)), str(data / "backups"))
    done = _run(data, "db", "restore", "-y", str(readme))
    _refused(done, "is no backup that `db backup` wrote")
    assert "pg_restore" not in done.stderr
    assert not (data / "postgres").exists()


def test_down_says_when_the_server_did_not_end_in_good_order(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:  # a server that an interrupt ends at once
        record = ServerRecord("http://127.0.0.1:1", "none", process.pid, process_started(process.pid) or "")
        (tmp_path / "server.json").write_text(json.dumps(record._asdict()))
        _refused(_run(tmp_path, "down"), "not in good order", str(tmp_path / "server.log"))


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _refused(_run(tmp_path / "data", "up", "--port", port), port, "OPENINSPECT_PORT")
        done = _run(tmp_path / "data", "up", "--detach", "--port", port)
        _refused(done, "ended while it was starting: 127.0.0.1:" + port, "OPENINSPECT_PORT")
        assert (done.stderr.count("error: "), done.stderr.count("→")) == (1, 1)


def test_a_port_that_is_none(tmp_path: Path) -> None:
    done = _run(tmp_path, "up", "--port", "80000")
    assert done.returncode == 2
    assert "65535" in done.stderr


def test_days_that_no_token_can_have(tmp_path: Path) -> None:
    for days in ("0", "4000"):
        done = _run(tmp_path, "tokens", "create", "ci", "--days", days)
        assert done.returncode == 2
        assert "--days" in done.stderr


def test_a_data_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    _refused(
        _run(tmp_path / "file" / "data", "up", "--port", "0"), "can't be written", "OPENINSPECT_DATA_DIR"
    )


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = "hunter2hunter2"
    url = f"postgresql://somebody:{secret}@127.0.0.1:{port}/none"
    done = _run(tmp_path, "up", "--port", "0", OPENINSPECT_DATABASE_URL=url)
    _refused(done, "database does not answer", "then run the command again")
    assert "goes on" not in done.stderr
    assert secret not in done.stdout + done.stderr
    done = _run(tmp_path, "up", "--port", "0", OPENINSPECT_DATABASE_URL="mysql://nonsense")
    _refused(done, "OPENINSPECT_DATABASE_URL")


def test_a_setting_that_is_wrong(tmp_path: Path) -> None:
    _refused(_run(tmp_path, "up", OPENINSPECT_PORT="many"), "OPENINSPECT_PORT")


def test_proxies_are_given_with_commas_between_them_or_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _run(tmp_path, "up", OPENINSPECT_TRUSTED_PROXIES="garbage")
    _refused(done, "OPENINSPECT_TRUSTED_PROXIES", "“garbage” is neither")
    for given, meant in (
        ("127.0.0.1", ["127.0.0.1"]),
        ("127.0.0.1, 10.1.2.3/8,::1", ["127.0.0.1", "10.0.0.0/8", "::1"]),
        ('["127.0.0.1"]', ["127.0.0.1"]),
        ("", []),
    ):
        monkeypatch.setenv("OPENINSPECT_TRUSTED_PROXIES", given)
        assert Settings.model_validate({"data_dir": tmp_path}).trusted_proxies == meant


def test_a_key_that_is_none_is_named_and_not_repeated(tmp_path: Path) -> None:
    done = _run(tmp_path, "up", ANTHROPIC_API_KEY="sécret")
    _refused(done, "ANTHROPIC_API_KEY: it is no key")
    assert "OPENINSPECT_ANTHROPIC" not in done.stderr
    assert "cret" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "\udcff", "--detach"),
        ("run", "x", "--repo", "/tmp/\udcff\udcfe"),
        ("\udcff",),
    ],
)
def test_an_argument_that_is_no_text(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    _refused(_run(tmp_path, *arguments), "Argument", "not valid UTF-8")


def test_a_variable_that_is_no_text(tmp_path: Path) -> None:
    for name in ("OPENINSPECT_TOKEN", "OPENAI_API_KEY"):
        done = _run(tmp_path, "sessions", "list", **{name: "sec\udcff"})
        _refused(done, f"{name} is not valid UTF-8")
        assert "sec" not in done.stderr.partition(name)[2].partition("→")[0]
    with pytest.raises(ValidationError, match="path is not valid UTF-8"):
        Settings.model_validate({"data_dir": "/tmp/\udcff"})


def test_an_address_or_a_token_that_is_none(tmp_path: Path) -> None:
    for url in ("garbage", "ftp://x", "http://", "http://[", "http://x:99999", "http://a b"):
        with pytest.raises(Invalid, match="OPENINSPECT_URL"):
            words.elsewhere(url, "x")
    for url in ("foo", "foo:8910", "ftp://x"):
        with pytest.raises(Invalid, match="needs http:// or https://"):
            words.elsewhere(url, "x")
    for token in ("x\n", "a b"):
        with pytest.raises(Invalid, match="OPENINSPECT_TOKEN"):
            words.elsewhere("http://127.0.0.1:1", token)
    done = _run(tmp_path, "sessions", "list", OPENINSPECT_URL="http://127.0.0.1:1", OPENINSPECT_TOKEN="é")
    _refused(done, "OPENINSPECT_TOKEN is no token", "tokens create")


def test_a_server_elsewhere_that_does_not_answer_is_not_to_be_started_here(tmp_path: Path) -> None:
    with socket.socket() as bound:  # and not listening: nothing answers there
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        done = _run(tmp_path, "sessions", "list", OPENINSPECT_URL=url, OPENINSPECT_TOKEN="x")
    _refused(done, f"The server at {url} does not answer", "Check the address in OPENINSPECT_URL")
    assert "openinspect up" not in done.stderr


def test_a_terminal_that_can_not_show_a_letter_ends_no_command(tmp_path: Path) -> None:
    done = _run(tmp_path, "sessions", "list", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 1
    assert "No server runs" in done.stderr


def test_doctor_tells_programs_what_it_tells_people(tmp_path: Path) -> None:
    done = _run(tmp_path, "doctor", "--json", OPENINSPECT_PORT="0")
    findings = json.loads(done.stdout)
    assert {"system", "git", "toolbox", "database", "models"} <= {one["name"] for one in findings}
    assert {one["state"] for one in findings} <= {"ok", "warning", "failed"}
    assert all(one["remedy"] for one in findings if one["state"] != "ok")
    assert done.returncode == (1 if any(one["state"] == "failed" for one in findings) else 0)


def test_a_clone_is_waited_for_longer_than_the_server_gives_it() -> None:
    assert CloneLimits().seconds < CLONE_SECONDS


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", "--help"),
        ("sessions", "--help"),
        ("repos", "--help"),
        ("db", "--help"),
        ("--version",),
    ],
)
def test_help_is_there(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _run(tmp_path, *arguments).returncode == 0
