"""The toolbox as sandboxes get it: mounted read-only somewhere else, with nothing else of the checkout, without a network."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLBOX = Path(__file__).parents[2] / ".tools" / "toolbox"
OPENCODE = TOOLBOX / "bin" / "opencode"

pytestmark = pytest.mark.skipif(not OPENCODE.exists(), reason=f"no toolbox in {TOOLBOX}: make test builds it")


def test_all_of_it_can_be_read_by_every_user_and_lies_inside() -> None:
    for place, folders, names in os.walk(TOOLBOX):
        for name in [*folders, *names]:
            path = Path(place) / name
            if path.is_symlink():
                assert path.resolve().is_relative_to(TOOLBOX.resolve()), f"{path} leads out"
            else:
                needed = 0o555 if path.is_dir() else 0o444
                assert path.stat().st_mode & needed == needed, f"{path} can't be read by everybody"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize("place", ["/opt/openinspect/toolbox", "/elsewhere"])
def test_its_programs_start_wherever_it_is_mounted(place: str) -> None:
    versions = json.loads((TOOLBOX / "versions.json").read_text())
    system = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for name in ("bin", "lib", "lib64"):
        link = Path("/") / name
        if link.is_symlink():
            system += ["--symlink", str(link.readlink()), str(link)]
    for name, version in versions.items():
        inside = [
            "--unshare-all",
            "--clearenv",
            "--setenv",
            "HOME",
            "/tmp",
            "--setenv",
            "PATH",
            "/usr/bin:/bin",
        ]
        command = [
            "bwrap",
            *system,
            *inside,
            "--ro-bind",
            str(TOOLBOX),
            place,
            f"{place}/bin/{name}",
            "--version",
        ]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if "user namespace" in said.stderr or "Permission denied" in said.stderr:
            pytest.skip(f"this host allows no sandbox: {said.stderr.strip()}")
        assert said.stdout.strip().removeprefix("v") == version, said.stderr


class Registry(http.server.ThreadingHTTPServer):
    """Stands where the npm registry would, and counts who asks."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RegistryRequest)
        self.asked: list[str] = []


class RegistryRequest(http.server.BaseHTTPRequestHandler):
    server: Registry  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _use_the_agent(home: Path, registry: Registry, done: float) -> None:
    """Start it in this home, make it work in a folder, and wait until it has asked the registry, or for ``done`` seconds."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    work = home / "work"
    work.mkdir(parents=True)
    env = {
        "HOME": str(home),
        "PATH": f"{TOOLBOX}/bin:/usr/bin:/bin",
        "npm_config_registry": f"http://127.0.0.1:{registry.server_port}/",
        "npm_config_fetch_retries": "0",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
    command = [str(OPENCODE), "serve", "--port", str(port), "--hostname", "127.0.0.1"]
    with (home / "log").open("wb") as log:
        agent = subprocess.Popen(command, env=env, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _ask(f"http://127.0.0.1:{port}/agent?directory={work}", agent, home / "log")
        deadline = time.monotonic() + done
        while not registry.asked and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        agent.kill()
        agent.wait()


def _ask(address: str, agent: subprocess.Popen[bytes], log: Path) -> None:
    # Not before its line: a request that comes while it starts is taken, and never answered.
    deadline = time.monotonic() + 60
    while "listening on" not in log.read_text():
        assert agent.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    urllib.request.urlopen(address, timeout=60).read()


def test_a_home_made_from_the_seed_makes_the_agent_ask_no_registry(
    tmp_path: Path, registry: Registry
) -> None:
    bare = tmp_path / "bare"
    _use_the_agent(bare, registry, done=30)
    assert any("plugin" in path for path in registry.asked), (
        "a bare home should have shown that this test can see it"
    )
    registry.asked.clear()
    seeded = tmp_path / "seeded"
    shutil.copytree(TOOLBOX / "opencode-home", seeded, symlinks=True)
    _use_the_agent(seeded, registry, done=3)
    assert registry.asked == []
