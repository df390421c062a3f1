"""The main job from the command line, on the real thing: run, list, show, prompt, attach, merge, archive, delete, back up."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from openinspect.cli.server_commands import signin_link
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


def _refused(live: LiveServer, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "openinspect", *arguments],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def _narrow(live: LiveServer, *arguments: str) -> str:
    """As a terminal of 80 columns shows it."""
    main, other = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "openinspect", *arguments],
        env={
            **kept,
            "OPENINSPECT_DATA_DIR": str(live.folder),
            "COLUMNS": "80",
            "TERM": "xterm",
            "NO_COLOR": "1",
        },
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    said = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while piece := os.read(main, 65536):
            said += piece
    os.close(main)
    assert process.wait(60) == 0, said
    return said.decode()


def test_lists_take_any_text_and_cut_no_id(live: LiveServer, tmp_path: Path) -> None:
    name = "a-repository-whose-name-takes-up-most-of-a-line"
    place = tmp_path / name
    create_sample_repository(place)
    text = "\n".join(
        (
            "run: printf x > x.txt && git add -A && git commit -q -m 'Add [/x]' && git push -q -u origin HEAD",
            'call openinspect_create_pull_request {"title": "Add [/x] to [red]all[/red]", "body": "[/x]"}',
            "say [/x]",
        )
    )
    said = _run(live, "run", text, "--repo", str(place), "--title", "say [/x]")
    assert "Add [/x] to [red]all[/red]" in said
    session = next(
        one for one in json.loads(_run(live, "sessions", "list", "--json")) if one["pull_requests"]
    )
    request = session["pull_requests"][0]
    _run(live, "tokens", "create", "for [/x]", "--days", "7")
    for show in (_run, _narrow):
        sessions = show(live, "sessions", "list")
        assert session["id"][-8:] in sessions
        assert name in sessions
        assert "say [/x]" in sessions
        assert request["id"] in show(live, "repos", "pulls", name)
        assert str(place) in show(live, "repos", "list")
        assert "anthropic/claude-sonnet-4-6" in show(live, "models")
        tokens = show(live, "tokens", "list")
        assert "for [/x]" in tokens
        assert "20" in tokens.partition("for [/x]")[2]  # a date: when it ends
    assert _run(live, "models").count("scripted") == 1

    assert "+x" in _run(live, "repos", "diff", f"{name}#1")
    assert "+x" in _run(live, "repos", "diff", request["id"][-8:])
    assert name in _refused(live, "repos", "merge", "nope#1")
    assert "no pull request “#77”" in _refused(live, "repos", "merge", "#77")
    assert "Closed #1" in _run(live, "repos", "close", f"{name}#1")


def test_looking_up_adds_nothing_and_names_what_is_known(live: LiveServer, tmp_path: Path) -> None:
    folder = tmp_path / "unknown"
    create_sample_repository(folder)
    before = live.api.get("/repositories")
    for arguments in (
        ("repos", "pulls", str(folder)),
        ("repos", "remove", "-y", str(folder)),
        ("run", "x", "--repo", "nope"),
    ):
        said = _refused(live, *arguments)
        assert "repos add PATH" in said
        assert all(one["name"] in said for one in before)
    assert live.api.get("/repositories") == before
    assert "names no session" in _refused(live, "sessions", "attach", "")
    assert "is no id of a prompt" in _refused(live, "sessions", "cancel", live.session("say: x")[0], "../#1")


def test_a_name_that_a_known_repository_does_not_get_is_told(live: LiveServer, tmp_path: Path) -> None:
    folder = tmp_path / "sprockets"
    create_sample_repository(folder)
    _run(live, "repos", "add", "--name", "cogs", str(folder))
    said = _refused(live, "repos", "add", "--name", "sprockets", str(folder))
    assert "is known already, as cogs" in said
    assert "repos remove cogs" in said
    for arguments in (("--name", "cogs", str(folder)), (str(folder),)):
        assert _run(live, "repos", "add", *arguments).startswith("cogs ")
    _run(live, "repos", "remove", "-y", "cogs")


def test_a_revoked_token_is_listed_only_with_all(live: LiveServer) -> None:
    _run(live, "tokens", "create", "short-lived")
    made = next(one for one in live.api.get("/tokens") if one["name"] == "short-lived")
    assert "short-lived" in _run(live, "tokens", "list")
    _run(live, "tokens", "revoke", made["id"])
    assert "short-lived" not in _run(live, "tokens", "list")
    assert "revoked" in _run(live, "tokens", "list", "--all")
    assert made["id"] in [one["id"] for one in json.loads(_run(live, "tokens", "list", "--json"))]


def test_a_picture_that_is_none_leaves_no_session(live: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    before = len(live.api.get("/sessions")["items"])
    assert "is not a PNG" in _refused(live, "run", "x", "--attach", str(tmp_path / "notes.txt"))
    assert "can't be read" in _refused(live, "run", "x", "--attach", str(tmp_path / "nowhere.png"))
    assert len(live.api.get("/sessions")["items"]) == before


def test_a_retry_takes_what_failed_and_not_what_came_last(live: LiveServer) -> None:
    session_id, failing = live.session("fail 400 x1\nsay: second try")
    live.wait(session_id, "turn.finished", 120, prompt_id=failing, status="failed")
    after = live.prompt(session_id, "say: fine")
    live.wait(session_id, "turn.finished", 120, prompt_id=after, status="completed")
    assert failing in _run(live, "sessions", "show", session_id)
    retried = json.loads(_run(live, "sessions", "retry", session_id, "--detach", "--json"))
    assert retried["text"].startswith("fail 400")
    live.wait(session_id, "turn.finished", 120, prompt_id=retried["id"])
    again = json.loads(_run(live, "sessions", "retry", session_id, failing[-8:], "--detach", "--json"))
    assert again["id"]
    assert "is completed" in _refused(live, "sessions", "retry", session_id, after)


def test_what_runs_now_is_said(live: LiveServer) -> None:
    session_id, prompt_id = live.session("sleep 60")
    live.wait(session_id, "tool.started", 120)
    said = _run(live, "sessions", "show", session_id)
    assert "The agent works." in said
    assert "… bash  sleep 60" in said
    stopped = _run(live, "sessions", "stop", session_id[-8:])
    assert "has ended" not in stopped
    live.wait(session_id, "turn.finished", 30, prompt_id=prompt_id)
    archived = _run(live, "sessions", "archive", session_id)
    assert f"sessions restore {session_id[-8:]}" in archived
    assert "zzz" in _run(live, "sessions", "list", "--search", "zzz")


def test_a_command_that_follows_goes_on_where_it_was_when_the_server_is_started_anew(
    live: LiveServer,
) -> None:
    begun = live.api.post("/sessions", {"prompt": {"text": "say: ready"}})["id"]
    live.wait(begun, "turn.finished", 120)
    arguments = ("sessions", "prompt", begun, "say 150 words every 20 ms\nsay: the end", "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "openinspect", *arguments],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        live.wait_for_text(begun, 20, 120)
        live.kill()
        live.start()  # on another port, with another token
        shown, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "Connected again" in said
    events = [json.loads(line) for line in shown.splitlines()]
    first = events[0]["seq"]
    assert [event["seq"] for event in events] == list(range(first, first + len(events)))
    assert (events[0]["body"]["kind"], events[-1]["body"]["kind"]) == ("prompt.queued", "turn.finished")


def test_it_is_said_that_a_scripted_model_answers(live: LiveServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openinspect", "run", "Please write a poem", "--detach"],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "A scripted model answers" in done.stderr
    assert "ANTHROPIC_API_KEY" in done.stderr
    said = live.wait(done.stdout.strip(), "text", 120)["body"]["text"]
    assert "not a language model" in said
    live.wait(done.stdout.strip(), "turn.finished")
    listed = subprocess.run(
        [sys.executable, "-m", "openinspect", "sessions", "list"],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "$" in listed.stdout
    assert "nothing was paid" in listed.stderr


def test_a_demo_on_a_server_with_another_script_says_to_end_that_first(live: LiveServer) -> None:
    said = _refused(live, "demo")
    assert "`make stop`, then `make demo`" in said


def test_a_backup_is_kept_in_the_data_folder_and_replaces_nothing(live: LiveServer, tmp_path: Path) -> None:
    assert str(live.folder / "backups") in _run(live, "db", "backup")
    (found,) = (live.folder / "backups").iterdir()
    assert "--force" in _refused(live, "db", "backup", str(found))
    done = subprocess.run(
        [sys.executable, "-m", "openinspect", "db", "backup"],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(tmp_path / "nowhere")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no database" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_sign_in_link_may_lead_to_a_page(live: LiveServer) -> None:
    link = signin_link(live.api, "/sessions/ses_1")
    assert "/signin?to=/sessions/ses_1#token=" in link


def test_no_secret_reaches_the_log_or_the_sandbox(live: LiveServer) -> None:
    session_id, prompt_id = live.session(
        "run: env; cat /proc/self/environ; ls -la /root /home 2>&1; cat /run/openinspect/runtime.json 2>&1"
    )
    live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)
    told = json.dumps(live.events(session_id))
    assert live.record is not None
    for secret in (live.record.token, "oi_box_", "oi_agent_"):
        assert secret not in told
        assert secret not in live.log()
    live.api.call("DELETE", f"/sessions/{session_id}")
