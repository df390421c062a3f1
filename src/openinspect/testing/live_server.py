"""The product as a person runs it, for tests and measurements: ``openinspect up`` in a process of its own, real sandboxes, a scripted model.

It can be killed and started again on the same data folder. Everything that it leaves behind can be asked for: ``leftovers``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openinspect.cli.client import Client, ServerRecord, read_record
from openinspect.settings import Settings
from openinspect.testing.scripted_model import ScriptedModel

START_SECONDS = 60.0
_COMMAND = (sys.executable, "-m", "openinspect")


class LiveServer:
    """``with LiveServer(folder) as live``; ``live.api`` is a client with the owner's token."""

    def __init__(
        self, folder: Path, *, script: str = "playground", jobs: bool = True, **environment: str
    ) -> None:
        """Without ``jobs`` the server runs none: an ``openinspect worker`` has to, with ``environment``."""
        self.folder = folder
        self.settings = Settings.model_validate({"data_dir": folder})
        self.model = ScriptedModel(script, delay_ms=0)
        self._environment = environment
        self._jobs = jobs
        self.process: subprocess.Popen[bytes] | None = None
        self.record: ServerRecord | None = None
        self._client: Client | None = None

    def __enter__(self) -> LiveServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.model.__exit__(None, None, None)

    @property
    def api(self) -> Client:
        assert self.record is not None
        if self._client is None:
            # one for all calls: to make a client takes longer than most calls
            self._client = Client(self.record.url, self.record.token)
        return self._client

    @property
    def environment(self) -> dict[str, str]:
        """What the server's own processes are started with."""
        kept = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
        return {
            **kept,
            "OPENINSPECT_DATA_DIR": str(self.folder),
            "OPENINSPECT_SCRIPTED_MODEL_URL": self.model.url,
            **self._environment,
        }

    def start(self) -> None:
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_COMMAND, "up", "--no-link", "--port", "0", "--jobs" if self._jobs else "--no-jobs"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            record = read_record(self.settings)
            if record is not None and record.pid == self.process.pid:
                self.record, self._client = record, None
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError("the server did not start: " + self.log()[-3000:])

    def log(self) -> str:
        return (self.folder / "up.log").read_text(errors="replace")

    def kill(self) -> None:
        """kill -9: the server alone, not what it started."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """As Ctrl-C does: the sandboxes end as well."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the server did not end: " + self.log()[-3000:]) from None

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────
    def session(self, prompt: str, **body: Any) -> tuple[str, str]:
        """A new session with a prompt: both ids."""
        session = self.api.post("/sessions", {"prompt": {"text": prompt}, **body})
        return session["id"], session["prompts"][0]["id"]

    def prompt(self, session_id: str, text: str) -> str:
        return self.api.post(f"/sessions/{session_id}/prompts", {"text": text})["id"]

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """The whole log. Fails when it has a gap or a duplicate."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.api.get(
                f"/sessions/{session_id}/events", after=found[-1]["seq"] if found else 0, limit=1000
            )
            found += page["events"]
            if not page["more"]:
                break
        assert [event["seq"] for event in found] == list(range(1, len(found) + 1)), (
            "the log has a gap or a duplicate"
        )
        return found

    def wait(
        self, session_id: str, kind: str, seconds: float = 60, *, count: int = 1, **fields: Any
    ) -> dict[str, Any]:
        """The ``count``-th event of a kind with these fields. A server that is away meanwhile is waited for."""
        deadline = time.monotonic() + seconds
        events: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            try:
                events = self.events(session_id)
            except Exception as error:
                if isinstance(error, AssertionError):
                    raise
                time.sleep(0.2)
                continue
            hits = [
                event
                for event in events
                if event["body"]["kind"] == kind
                and all(event["body"].get(key) == value for key, value in fields.items())
            ]
            if len(hits) >= count:
                return hits[count - 1]
            time.sleep(0.1)
        told = "\n".join(str(event["body"])[:300] for event in events[-15:])
        raise AssertionError(
            f"no {kind} {fields} within {seconds} s. The log ends:\n{told}\n{self.log()[-2000:]}"
        )

    def wait_for_text(self, session_id: str, words: int, seconds: float = 60) -> None:
        """Until a part that is being written has at least so many words."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            parts = self.api.get(f"/sessions/{session_id}")["open_parts"]
            if any(len(part["text"].split()) >= words for part in parts):
                return
            time.sleep(0.1)
        raise AssertionError(f"no text of {words} words within {seconds} s: {self.events(session_id)[-5:]}")

    # ── processes ─────────────────────────────────────────────────────────────────────────────────
    def processes(self, *words: str) -> list[int]:
        """Processes of this server's boxes whose command line has these words."""
        found: list[int] = []
        for box in self.boxes():
            for pid in _descendants(box):
                if all(word in _command(pid) for word in words):
                    found.append(pid)
        return found

    def boxes(self) -> list[int]:
        """The holders of this server's sandboxes."""
        return [
            pid
            for pid in _pids()
            if "sandboxes.local.holder" in _command(pid) and str(self.folder) in _command(pid)
        ]

    def leftovers(self) -> list[str]:
        """What is still there of sandboxes: processes, mounts, cgroups, box folders, loop devices."""
        folder = str(self.folder)
        left = [f"process {pid}: {_command(pid)}" for pid in self.boxes()]
        left += [
            f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if folder in line
        ]
        boxes = self.folder / "sandboxes" / "boxes"
        names = [path.name for path in boxes.iterdir()] if boxes.is_dir() else []
        left += [f"folder {name}" for name in names]
        for device in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if folder in device.read_text():
                    left.append(f"loop device {device.parts[3]}")
            except OSError:
                continue  # it went away while it was looked at
        return left

    def wait_clean(self, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while left := self.leftovers():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {left}")
            time.sleep(0.2)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for pid in _pids():
        try:
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, edge = [], {root}
    while edge:
        edge = {pid for pid, parent in parents.items() if parent in edge}
        found += sorted(edge)
    return found
