"""The main job, by hand in the browser: from the sign-in link to a merged pull request."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from openinspect.testing.live_server import LiveServer

from .axe import faults

pytestmark = pytest.mark.timeout(300)

MINUTES = 180_000


def test_from_the_first_sign_in_to_a_merged_pull_request(visit, sample: Path) -> None:
    page = visit()
    assert "token" not in page.url
    assert page.evaluate("history.length") <= 2

    # An empty installation asks for a repository first.
    page.get_by_label("Folder or address").fill(str(sample))
    page.get_by_role("button", name="Add repository").click()
    expect(page.get_by_text("Answers come from a scripted model")).to_be_visible()

    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("A test of this repository fails. Fix the bug, commit, push and open a pull request.")
    prompt.press("Control+Enter")
    page.wait_for_url(re.compile(r"/sessions/ses_"), timeout=MINUTES)

    timeline = page.get_by_role("log", name="Timeline")
    expect(timeline.get_by_text("Sandbox ready")).to_be_visible(timeout=MINUTES)
    card = timeline.get_by_label(re.compile(r"Pull request #\d+"))
    expect(card.get_by_role("button", name="Merge", exact=True)).to_be_visible(timeout=MINUTES)
    expect(page.get_by_role("status").filter(has_text="Done")).to_be_attached(timeout=MINUTES)

    # What has changed stands beside the timeline.
    page.get_by_role("button", name="Changes and details").click()
    panel = page.get_by_role("tabpanel", name="Changes")
    expect(panel.get_by_role("button", name=re.compile(r"fees\.py"))).to_be_visible()
    expect(panel.get_by_text("return (days + DAYS_PER_WEEK - 1) // DAYS_PER_WEEK")).to_be_visible()

    card.get_by_role("button", name="How to merge").click()
    page.get_by_role("menuitemradio", name=re.compile("Squash and merge")).click()
    card.get_by_role("button", name="Squash and merge").click()
    expect(card.get_by_text("Merged into")).to_be_visible()
    merged = subprocess.run(
        ["git", "-C", str(sample), "show", "main:lending/fees.py"], capture_output=True, text=True, check=True
    )
    assert "(days + DAYS_PER_WEEK - 1) // DAYS_PER_WEEK" in merged.stdout

    # Back home it stands in the list, with its pull request.
    page.get_by_role("link", name="Open-Inspect: all sessions").click()
    row = page.get_by_role("region", name="Sessions").get_by_role("link").first
    expect(row).to_contain_text("Done")
    expect(row).to_contain_text("merged")


LONG = "feature/" + "a-name-that-somebody-made-from-the-title-of-a-ticket-" * 3


def test_a_change_can_be_read_by_everybody(visit, live: LiveServer, tmp_path: Path) -> None:
    path = tmp_path / "zebra"
    git = ("git", "-C", str(path), "-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
    (path / "notes.txt").write_text("one\ntwo\nfour\n")
    for words in (("add", "-A"), ("commit", "-q", "-m", "Begin"), ("branch", LONG)):
        subprocess.run([*git, *words], check=True)
    repository = live.api.post("/repositories", {"path": str(path)})["id"]
    session, _ = live.session("edit notes.txt: two => three", targets=[{"repository": repository}])
    live.wait(session, "turn.finished", 180)
    live.wait(session, "diff", 60)

    found: list[str] = []
    for dark in (False, True):
        for phone in (False, True):
            page = visit(f"/sessions/{session}?panel=changes", dark=dark, phone=phone)
            panel = page.get_by_role("tabpanel", name="Changes")
            expect(panel.get_by_text("three", exact=True)).to_be_visible()
            found += faults(page, f"dark={dark} phone={phone}")
            if not phone:
                panel.get_by_role("button", name="Side by side").click()
                found += faults(page, f"dark={dark} side by side")
    assert found == []

    # Who comes for the first time begins where the last session worked, not with the first name of the list.
    page = visit()
    expect(page.get_by_role("button", name="Repository:")).to_contain_text("zebra")
    page.get_by_role("button", name="Branch to begin from").click()
    page.get_by_role("option", name=LONG).get_by_title(LONG).click()
    expect(page.get_by_role("button", name="Branch to begin from")).to_have_attribute(
        "title", re.compile(LONG)
    )
