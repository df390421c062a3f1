"""How a server ends that somebody started by hand."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from openinspect.cli.client import Client, read_record
from openinspect.db.postgres import EmbeddedPostgres
from openinspect.settings import Settings
from openinspect.testing.live_server import LiveServer
from openinspect.testing.scripted_model import ScriptedModel


def _environment(folder: Path, model: ScriptedModel) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    return {**kept, "OPENINSPECT_DATA_DIR": str(folder), "OPENINSPECT_SCRIPTED_MODEL_URL": model.url}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "openinspect", *arguments]


def _wait_for(folder: Path, process: subprocess.Popen[bytes], seconds: float = 90) -> Client:
    settings = Settings.model_validate({"data_dir": folder})
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        record = read_record(settings)
        if record is not None:
            return Client(record.url, record.token)
        time.sleep(0.02)
    raise AssertionError("the server did not start")


def test_in_the_background_its_log_is_its_owners_alone(tmp_path: Path) -> None:
    with ScriptedModel("bench") as model:
        environment = _environment(tmp_path / "data", model)
        up = _command("up", "--detach", "--port", "0")
        subprocess.run(up, env=environment, check=True, timeout=120, capture_output=True)
        try:
            log = tmp_path / "data" / "server.log"
            assert log.stat().st_mode & 0o777 == 0o600
        finally:
            subprocess.run(_command("down"), env=environment, check=True, timeout=120, capture_output=True)


def test_in_a_terminal_a_second_interrupt_does_not_wait_and_the_next_server_tidies_up(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ScriptedModel("bench") as model:
        environment = _environment(folder, model)
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            _command("up", "--no-link", "--port", "0"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        said = b""
        try:
            api = _wait_for(folder, process)
            session = api.post("/sessions", {"prompt": {"text": "turn"}})["id"]
            deadline = time.monotonic() + 60
            while api.get(f"/sessions/{session}")["sandbox"]["state"] in (None, "requested"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            while b"Ctrl-C again" not in said:
                said += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, said
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(ours)
        for arguments in (("up", "--detach", "--port", "0"), ("down",)):
            subprocess.run(
                _command(*arguments), env=environment, check=True, timeout=120, capture_output=True
            )
    assert not [words for words in _command_lines() if str(folder) in words]


def test_without_its_database_it_ends_its_sandboxes_all_the_same(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    url = asyncio.run(postgres.start())
    try:
        with LiveServer(tmp_path / "data", OPENINSPECT_DATABASE_URL=url) as live:
            session_id, prompt_id = live.session("sleep 600")
            live.wait(session_id, "tool.started", 120)
            assert live.boxes()
            asyncio.run(postgres.stop())
            ended = subprocess.run(
                _command("down"),
                env=live.environment,
                timeout=120,
                capture_output=True,
                text=True,
                check=False,
            )
            assert live.process is not None
            assert (ended.returncode, ended.stdout, live.process.wait(10)) == (0, "Ended.\n", 0), ended.stderr
            assert not live.boxes()
            assert live.log().count("sandbox.stopped_without_database") == 1
            assert "Traceback" not in live.log()
            asyncio.run(postgres.start())
            live.start()
            live.wait(session_id, "turn.finished", prompt_id=prompt_id, status="failed")
            live.end()
            live.wait_clean()
    finally:
        asyncio.run(postgres.stop())


def _command_lines() -> list[str]:
    lines: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines.append((process / "cmdline").read_text(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return lines
