"""The scripted model as a program."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2

from openinspect.testing.model_server import KEY_VARIABLE

COMMAND = [sys.executable, "-m", "openinspect.testing.model_server"]


def test_it_prints_its_address_and_ends_on_sigterm(tmp_path: Path):
    script = tmp_path / "mine.yaml"
    script.write_text("name: mine\nscenarios: [{name: all, steps: [{name: only, text: Hello}]}]\n")
    environment = {**os.environ, KEY_VARIABLE: "the-right-key"}
    with subprocess.Popen(
        [*COMMAND, "--script", str(script), "--delay-ms", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "“mine” listening on http://127.0.0.1:" in line
            url = line.split()[-1]
            request = {"model": "any", "messages": [{"role": "user", "content": "x"}]}
            refused = httpx2.post(f"{url}/openai/v1/chat/completions", json=request, timeout=10)
            assert refused.status_code == 401
            headers = {"authorization": "Bearer the-right-key"}
            answer = httpx2.post(
                f"{url}/openai/v1/chat/completions", json=request, headers=headers, timeout=10
            )
            assert answer.json()["choices"][0]["message"]["content"] == "Hello"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30)


def test_a_script_that_is_not_there_is_told():
    done = run("--script", "nonsense")
    assert done.returncode == 1
    assert "demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Choose another --port" in done.stderr
    assert "Traceback" not in done.stderr
