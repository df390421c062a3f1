"""Settings, sign-in and the command menu, in the browser."""

from __future__ import annotations

import re
import subprocess

import httpx2
from playwright.sync_api import Route, expect

from openinspect.testing.live_server import LiveServer

from .conftest import signin_token

MINUTES = 180_000


def test_a_member_is_added_and_signs_in_by_the_link(visit, browser, live: LiveServer, relay, watch) -> None:
    page = visit("/settings/members")
    page.get_by_role("button", name="Add a person").click()
    form = page.get_by_role("dialog", name="Add a person")
    expect(form.get_by_label("Name")).to_be_focused()
    page.keyboard.type("Noor Aziz")
    form.get_by_label("E-mail").fill("noor@example.com")
    form.get_by_label("Role").select_option("viewer")
    form.get_by_role("button", name="Add and make a link").click()
    shown = page.get_by_role("dialog", name="A sign-in link for Noor Aziz")
    token = shown.locator("code").inner_text().partition("#token=")[2]
    shown.get_by_role("button", name="Done").click()
    expect(page.get_by_label("Role of Noor Aziz")).to_have_value("viewer")
    page.get_by_label("Role of Noor Aziz").select_option("member")
    expect(page.get_by_text("The role is changed.")).to_be_visible()

    context = browser.new_context(base_url=relay.url)
    try:
        theirs = context.new_page()
        theirs.goto(f"/signin#token={token}")
        expect(theirs.get_by_role("heading", name="What shall be done, Noor?")).to_be_visible()
        assert "token" not in theirs.url
        # a link that was used is no matter to who is signed in, and of no use to anybody else
        theirs.goto("/signin#token=" + token)
        expect(theirs.get_by_role("heading", name="What shall be done, Noor?")).to_be_visible()
        context.clear_cookies()
        theirs.goto("/signin#token=" + token)
        expect(theirs.get_by_role("alert")).to_be_visible()
        expect(theirs.get_by_text(".venv/bin/openinspect signin", exact=True)).to_be_visible()
    finally:
        context.close()


def test_who_is_not_signed_in_comes_back_to_where_they_wanted_to_go(
    browser, live: LiveServer, relay, session: str
) -> None:
    context = browser.new_context(base_url=relay.url)
    try:
        page = context.new_page()
        page.goto(f"/sessions/{session}")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.get_by_label("Sign-in link").fill(f"{relay.url}/signin#token={signin_token(live)}")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(f"/sessions/{session}"))
        page.goto("/signin?to=//203.0.113.9/x")
        page.get_by_label("Sign-in link").fill(signin_token(live))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{relay.url}/")
    finally:
        context.close()


def test_a_token_is_shown_once_works_and_is_revoked(visit, relay) -> None:
    page = visit("/settings/tokens")
    page.get_by_role("button", name="New token").click()
    form = page.get_by_role("dialog", name="New token")
    expect(form.get_by_label("Name")).to_be_focused()
    page.keyboard.type("from the test")  # with blanks, which would press a button
    form.get_by_role("button", name="Make it").click()
    token = page.get_by_role("dialog").locator("code").inner_text()

    def status() -> int:
        return httpx2.get(f"{relay.url}/api/me", headers={"authorization": f"Bearer {token}"}).status_code

    assert status() == 200
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_text(token)).to_have_count(0)
    row = page.get_by_role("listitem").filter(has_text="from the test")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert status() == 401


def test_a_repository_that_is_none_is_refused_with_a_remedy(visit, watch, tmp_path) -> None:
    watch.expected = ("Failed to load resource",)
    page = visit("/settings/repositories")
    page.get_by_label("Folder or address").fill(str(tmp_path / "nothing"))
    page.get_by_role("button", name="Add repository").click()
    expect(page.get_by_role("alert")).to_be_visible()


def test_a_clone_may_take_longer_than_other_calls(visit, relay) -> None:
    page = visit()
    page.add_init_script(  # a tenth of each deadline, so that this test need not wait for the real one
        "const real = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => real(ms / 10);"
    )
    page.goto("/settings/repositories")
    held: list[Route] = []
    page.route(
        "**/api/repositories",
        lambda route: held.append(route) if route.request.method == "POST" else route.continue_(),
    )
    page.get_by_label("Folder or address").fill("https://code.example/large.git")
    page.get_by_role("button", name="Add repository").click()
    expect(page.get_by_role("button", name="Cloning…")).to_be_visible()
    expect(page.get_by_text("half an hour at most")).to_be_visible()
    expect(
        page.get_by_text(re.compile(r"\b4(\.0)? s"))
    ).to_be_visible()  # beyond the 3 s that another call would have
    expect(page.get_by_role("alert")).to_have_count(0)
    held[0].fulfill(
        status=201,
        json={
            **{
                "id": "repo_1",
                "name": "large",
                "location": "/there",
                "origin_url": "https://code.example/large.git",
            },
            **{"default_branch": "main", "created_at": "2026-11-23T00:00:00Z"},
        },
    )
    expect(page.get_by_text("large is ready to be worked on.")).to_be_visible()


def test_an_empty_repository_gets_its_first_commit(visit, tmp_path) -> None:
    path = tmp_path / "fresh"
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
    page = visit("/settings/repositories")
    page.get_by_label("Folder or address").fill(str(path))
    page.get_by_role("button", name="Add repository").click()
    expect(page.get_by_role("listitem").filter(has_text="fresh")).to_contain_text("empty")
    page.goto("/")
    page.get_by_role("button", name="Repository").click()
    page.get_by_role("option", name="fresh").click()
    expect(page.get_by_role("button", name="Branch to begin from")).to_contain_text("No branch yet")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill(
        "write a.txt: x\nrun: git add -A && git commit -q -m 'The first' && git push -q -u origin HEAD"
    )
    prompt.press("Control+Enter")
    page.wait_for_url(re.compile(r"/sessions/ses_"))
    timeline = page.get_by_role("log", name="Timeline")
    expect(timeline.get_by_text("fresh is empty: the work begins with its first commit.")).to_be_attached(
        timeout=MINUTES
    )
    expect(page.get_by_role("status").filter(has_text="Done")).to_be_attached(timeout=MINUTES)
    page.get_by_role("button", name="Changes and details").click()
    expect(
        page.get_by_role("tabpanel", name="Changes").get_by_role("button", name=re.compile(r"a\.txt"))
    ).to_be_visible()


def test_a_session_that_is_not_there_leads_back_to_the_others(visit, relay, watch) -> None:
    watch.expected = ("Failed to load resource",)
    page = visit("/sessions/ses_01zzzzzzzzzzzzzzzzzzzzzzzz", phone=True)
    expect(page.get_by_role("heading", name="This session does not exist")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("link", name="All sessions", exact=True).click()
    page.wait_for_url(f"{relay.url}/")


def test_every_page_has_a_title_of_its_own(visit, session: str, watch) -> None:
    watch.expected = ("Failed to load resource",)
    page = visit()
    expect(page).to_have_title("Sessions · Open-Inspect")
    page.goto(f"/sessions/{session}")
    expect(page).to_have_title(re.compile("A place to try things out · Open-Inspect"))
    page.goto("/sessions/ses_01zzzzzzzzzzzzzzzzzzzzzzzz")
    expect(page).to_have_title(re.compile(r"^This session does not exist.* · Open-Inspect$"))
    page.goto("/nowhere")
    expect(page).to_have_title("There is nothing at this address · Open-Inspect")
    page.goto("/signin")
    expect(page).to_have_title("Sign in · Open-Inspect")


def test_a_server_that_is_away_is_told_once(visit, relay, session: str, watch) -> None:
    watch.expected = ("Failed to load resource",)
    page = visit()
    expect(page.locator(f'a[data-session][href="/sessions/{session}"]')).to_be_visible()
    relay.shut()
    expect(page.get_by_role("alert")).to_have_count(1, timeout=30_000)
    expect(page.get_by_role("alert")).to_contain_text("The server can't be reached.")
    page.wait_for_timeout(2_500)  # long enough for all that the page asks for to have failed
    expect(page.get_by_role("alert")).to_have_count(1)
    relay.reopen()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_every_page_of_the_settings_is_in_sight_on_a_phone(visit) -> None:
    page = visit("/settings/models", phone=True)
    for link in page.get_by_role("navigation", name="Settings").get_by_role("link").all():
        expect(link).to_be_in_viewport(ratio=1)


def test_keys_lead_everywhere(visit, relay, session: str) -> None:
    page = visit(f"/sessions/{session}")
    page.get_by_role("log", name="Timeline").focus()
    page.keyboard.press("/")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Find a session or a command")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("Control+k")
    find = page.get_by_role("combobox", name="Find a session or a command")
    expect(find).to_be_focused()
    find.fill("models")
    page.keyboard.press("Enter")
    page.wait_for_url("**/settings/models")
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.keyboard.press("n")
    page.wait_for_url(f"{relay.url}/")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    expect(page.locator("a[data-session]").first).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/sessions/"))
    page.go_back()
    expect(page.get_by_role("heading", name=re.compile("What shall be done"))).to_be_visible()
