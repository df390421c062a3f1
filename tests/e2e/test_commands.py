"""The main job from the command line, on the real thing: run, list, show, prompt, attach, merge, archive, delete, back up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openinspect.testing.live_server import LiveServer
from openinspect.testing.sample_repository import create_sample_repository

pytestmark = pytest.mark.timeout(400)


def _run(live: LiveServer, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "openinspect", *arguments],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder), "COLUMNS": "220"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_a_prompt_becomes_a_merged_pull_request(live: LiveServer, tmp_path: Path) -> None:
    repository = tmp_path / "widgets"
    create_sample_repository(repository)
    before = subprocess.run(
        ["git", "rev-parse", "main"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()
    text = "\n".join(
        (
            "write note.txt: a note",
            "run: git add -A && git commit -q -m 'Add a note' && git push -q -u origin HEAD",
            'call openinspect_create_pull_request {"title": "Add a note", "body": "It was missing."}',
            "run: git push origin HEAD:main",
            "say: done",
        )
    )
    said = _run(live, "run", text, "--repo", str(repository))
    assert "● commit" in said
    assert "pull request #1 opened: Add a note" in said
    assert "refused" in said  # the push to main
    sessions = json.loads(_run(live, "sessions", "list", "--json"))
    session = next(one for one in sessions if one["pull_requests"])
    request = session["pull_requests"][0]
    assert (request["state"], request["base"]) == ("open", "main")
    after = subprocess.run(
        ["git", "rev-parse", "main"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert after == before, "the base branch was pushed to"
    author, committer = (
        subprocess.run(
            ["git", "log", "-1", "--format=%an|%cn", request["head"]],
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        )
        .stdout.strip()
        .split("|")
    )
    assert author == live.api.get("/me")["user"]["name"]
    assert committer == "Open-Inspect"
    assert "+a note" in _run(live, "repos", "diff", request["id"])
    assert "Merged #1" in _run(live, "repos", "merge", request["id"], "--method", "squash")
    assert (repository / "note.txt").read_text() == "a note\n"
    diff = live.api.get(f"/sessions/{session['id']}/diff")
    assert [file["path"] for file in diff["repositories"][0]["files"]] == ["note.txt"]

    assert "Hello again" in _run(live, "sessions", "prompt", session["id"][-8:], "say: Hello again")
    assert "Add a note" in _run(live, "sessions", "show", session["id"])
    backup = tmp_path / "all.backup"
    assert "Written" in _run(live, "db", "backup", str(backup))
    assert backup.stat().st_size > 1000
    _run(live, "sessions", "archive", session["id"])
    assert session["id"][-8:] in _run(live, "sessions", "list", "--archived")
    _run(live, "sessions", "restore", session["id"])
    _run(live, "sessions", "delete", "--yes", session["id"])
    assert session["id"][-8:] not in _run(live, "sessions", "list")


def test_an_empty_repository_gets_its_first_commit(live: LiveServer, tmp_path: Path) -> None:
    repository = tmp_path / "fresh"
    subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
    assert "none yet, it is empty" in _run(live, "repos", "add", str(repository))
    text = "\n".join(
        (
            "write a.txt: x",
            "run: git add -A && git commit -q -m 'The first' && git push -q -u origin HEAD",
            "say: done",
        )
    )
    said = _run(live, "run", text, "--repo", "fresh")
    assert "fresh is empty: the work begins with its first commit" in said
    assert "● commit" in said
    session = json.loads(_run(live, "sessions", "list", "--json"))[0]
    branch = session["targets"][0]["work_branch"]
    told = subprocess.run(
        ["git", "log", "--format=%s", branch], cwd=repository, capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == ["The first"]
    (diff,) = live.api.get(f"/sessions/{session['id']}/diff")["repositories"]
    assert [(file["path"], file["status"]) for file in diff["files"]] == [("a.txt", "added")]
    live.api.call("DELETE", f"/sessions/{session['id']}")


def test_bad_requests_say_what_to_do(live: LiveServer, tmp_path: Path) -> None:
    create_sample_repository(tmp_path / "gadgets")
    (tmp_path / "plain").mkdir()
    for words, arguments in (
        ("nowhere", ("run", "do it", "--repo", str(tmp_path / "nowhere"))),
        ("is not a git repository", ("run", "do it", "--repo", str(tmp_path / "plain"))),
        ("no branch “nope”", ("run", "do it", "--repo", str(tmp_path / "gadgets"), "--branch", "nope")),
        ("claude-nonesuch", ("run", "do it", "--model", "anthropic/claude-nonesuch")),
        ("zzzzzzzz", ("sessions", "show", "zzzzzzzz")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "openinspect", *arguments],
            env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder), "COLUMNS": "220"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "error: " in done.stderr
        assert words in done.stderr
        assert "→" in done.stderr
        assert "Traceback" not in done.stderr


def test_no_secret_reaches_the_log_or_the_sandbox(live: LiveServer) -> None:
    session_id, prompt_id = live.session(
        "run: env; cat /proc/self/environ; ls -la /root /home 2>&1; cat /run/openinspect/runtime.json 2>&1"
    )
    live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)
    told = json.dumps(live.events(session_id))
    assert live.record is not None
    for secret in (live.record.token, "oi_box_"):
        assert secret not in told
        assert secret not in live.log()
    live.api.call("DELETE", f"/sessions/{session_id}")
