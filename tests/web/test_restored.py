"""A page that is open while the server's database is put back to a backup shows what there is then, and goes on from there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from openinspect.testing.live_server import LiveServer

from .relay import Relay

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def live(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Another than everybody's: what it knows is thrown away here."""
    folder = tmp_path_factory.mktemp("restored") / "data"
    with LiveServer(folder, OPENINSPECT_SANDBOX_DISK_MIB="256") as server:
        yield server


@pytest.fixture(scope="module")
def relay(live: LiveServer) -> Iterator[Relay]:
    def target() -> tuple[str, int]:
        place = urlsplit(live.record.url if live.record else "")
        return place.hostname or "127.0.0.1", place.port or 80

    with Relay(target) as relay:
        yield relay


def _run(live: LiveServer, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "openinspect", *arguments],
        env={**os.environ, "OPENINSPECT_DATA_DIR": str(live.folder)},
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )


def test_a_page_left_open_over_a_restore_shows_the_log_that_is_there(
    visit, live: LiveServer, watch, tmp_path: Path
) -> None:
    watch.expected = ("Failed to load resource", "WebSocket connection to")
    session_id, _ = live.session("say: from before the backup")
    live.wait(session_id, "turn.finished", 180)
    page = visit(f"/sessions/{session_id}")
    # signed in before the backup, or the page would be signed out by it
    timeline = page.get_by_role("log")
    expect(timeline.get_by_text("from before the backup", exact=True).last).to_be_visible()
    backup = tmp_path / "backup"
    _run(live, "db", "backup", str(backup))
    for number in range(3):
        text = f"from after the backup {number}"
        live.wait(session_id, "turn.finished", 60, prompt_id=live.prompt(session_id, f"say: {text}"))
        expect(timeline.get_by_text(text, exact=True).last).to_be_visible(timeout=20_000)
    live.end()
    _run(live, "db", "restore", str(backup), "--yes")
    live.start()
    expect(timeline.get_by_text("from after the backup")).to_have_count(0, timeout=60_000)
    expect(timeline.get_by_text("from before the backup", exact=True).last).to_be_visible()
    live.prompt(session_id, "say: and on it goes")
    expect(timeline.get_by_text("say: and on it goes").last).to_be_visible(timeout=20_000)
