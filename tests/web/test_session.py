"""A session in the browser: text as it is written, the queue, stop, questions, other people, lost connections, phones, hostile text."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, Route, expect

from openinspect.testing.live_server import LiveServer

pytestmark = pytest.mark.timeout(300)

TURN = 60_000


def send(page: Page, text: str) -> None:
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill(text)
    prompt.press("Control+Enter")
    expect(prompt).to_have_value("")


def timeline(page: Page):
    return page.get_by_role("log", name="Timeline")


def idle(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop the agent")).to_have_count(0, timeout=TURN)


def same_as_the_log(page: Page, live: LiveServer, session: str) -> list[list[str]]:
    """The texts of the newest turn, as words: the page shows each of them once, whole and in order, as the log has it."""
    events = live.events(session)
    turn = [event["turn_id"] for event in events if event["body"]["kind"] == "turn.finished"][-1]
    stored = [
        event["body"]["text"].split()
        for event in events
        if event["body"]["kind"] == "text" and event["turn_id"] == turn
    ]
    shown = timeline(page).locator(".prose").all_inner_texts()
    assert [text.split() for text in shown[-len(stored) :]] == stored
    return stored


def test_text_is_seen_while_it_is_written(visit, live: LiveServer, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "say 150 words every 20 ms")
    growing = timeline(page).locator(".prose-growing")
    expect(growing).to_be_visible(timeout=TURN)
    lengths = set()
    deadline = time.monotonic() + 30
    while len(lengths) < 8 and time.monotonic() < deadline:
        if growing.count():
            lengths.add(len(growing.inner_text()))
        page.wait_for_timeout(40)
    assert len(lengths) >= 8, "the text did not grow before one's eyes"
    idle(page)
    expect(growing).to_have_count(0)
    same_as_the_log(page, live, session)


def test_the_newest_stays_in_view_unless_one_scrolls_up(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "say 400 words\nsay 400 words\nsay: The very end.")
    expect(timeline(page).get_by_text("The very end.", exact=True).last).to_be_in_viewport(timeout=TURN)
    idle(page)
    from_end = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    assert timeline(page).evaluate(from_end) < 4
    timeline(page).hover()
    page.mouse.wheel(0, -600)
    expect(page.get_by_role("button", name="Latest")).to_be_visible()
    send(page, "say: One more.")
    expect(timeline(page).get_by_text("One more.").last).to_be_in_viewport(timeout=TURN)
    idle(page)


def test_a_longer_prompt_below_does_not_hold_up_the_newest(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "say 400 words every 20 ms\nsay: And that was it.")
    expect(timeline(page).locator(".prose-growing")).to_be_visible(timeout=TURN)
    prompt = page.get_by_label("Prompt", exact=True)
    for number in range(6):
        prompt.press_sequentially(f"line {number}")
        prompt.press("Enter")
        expect(timeline(page).locator(".prose-growing")).to_be_visible()
    expect(page.get_by_role("button", name="Latest")).to_have_count(0)
    expect(timeline(page).get_by_text("And that was it.", exact=True).last).to_be_in_viewport(timeout=TURN)
    idle(page)
    prompt.fill("")


def test_who_scrolls_up_by_a_little_is_left_there(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "say 200 words every 20 ms")
    expect(timeline(page).locator(".prose-growing")).to_be_visible(timeout=TURN)
    timeline(page).hover()
    page.mouse.wheel(0, -40)
    expect(page.get_by_role("button", name="Latest")).to_be_visible()
    idle(page)
    page.keyboard.press("End")


def test_a_full_queue_says_so(visit, live: LiveServer, session: str) -> None:
    page = visit(f"/sessions/{session}")
    waiting = [live.prompt(session, "sleep 120")] + [live.prompt(session, f"say: {at}") for at in range(9)]
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("say: one too many")
    reason = page.get_by_text("10 prompts are unfinished: wait for one, or cancel one.")
    expect(reason).to_be_visible()
    expect(prompt).to_have_accessible_description(re.compile("10 prompts are unfinished"))
    expect(page.get_by_role("button", name="Queue", exact=True)).to_be_disabled()
    for one in reversed(waiting[1:]):
        live.api.call("DELETE", f"/sessions/{session}/prompts/{one}")
    expect(reason).to_have_count(0)
    page.get_by_role("button", name="Stop the agent").click()
    idle(page)
    prompt.fill("")


def test_queue_edit_cancel_and_stop(visit, live: LiveServer, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "sleep 120")
    expect(page.get_by_role("button", name="Stop the agent")).to_be_enabled(timeout=TURN)
    send(page, "say: first in the queue")
    send(page, "say: to be cancelled")
    queue = page.get_by_role("region", name="Queue")
    expect(queue.get_by_role("listitem")).to_have_count(2)

    queue.get_by_role("listitem").nth(1).get_by_role("button", name="Cancel").click()
    expect(queue.get_by_role("listitem")).to_have_count(1)
    queue.get_by_role("button", name="Edit").click()
    queue.get_by_label("The prompt").fill("say: edited in the queue")
    queue.get_by_role("button", name="Save").click()
    expect(queue.get_by_text("say: edited in the queue")).to_be_visible()

    page.keyboard.press("Escape")
    expect(timeline(page).get_by_text("edited in the queue", exact=True).last).to_be_visible(timeout=TURN)
    idle(page)
    statuses = [e["body"]["status"] for e in live.events(session) if e["body"]["kind"] == "turn.finished"]
    assert statuses[-2:] == ["stopped", "completed"]
    told = [e["body"]["text"] for e in live.events(session) if e["body"]["kind"] == "text"]
    assert not any("to be cancelled" in text for text in told)


def test_tools_are_shown_as_what_they_are(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(
        page,
        "run: printf '\\033[32mgreen\\033[0m and plain'\n"
        "write notes.txt: one\\ntwo\n"
        "edit notes.txt: two => three\n"
        "todo: look around | write it down\n"
        "think: Let me see.",
    )
    place = timeline(page)
    expect(place.get_by_text("$ printf").last).to_be_visible(timeout=TURN)
    idle(page)
    coloured = place.locator("pre span.text-good", has_text="green").last
    expect(coloured).to_be_visible()
    edit = place.get_by_role("button", name=re.compile(r"Edited notes\.txt")).last
    expect(edit).to_be_visible()
    expect(place.get_by_text("three", exact=True).last).to_be_visible()
    thought = place.get_by_role("button", name=re.compile("^Thought")).last
    expect(thought).to_have_attribute("aria-expanded", "false")
    thought.click()
    expect(thought).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_label("The agent's list")).to_contain_text("look around")


def test_a_question_of_the_agent_is_answered(visit, live: LiveServer, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "ask: Which colour? | red | blue")
    question = timeline(page).get_by_role("group", name="Question of the agent").last
    expect(question).to_be_visible(timeout=TURN)
    expect(page.get_by_role("status").filter(has_text="Waiting for an answer")).to_be_attached()
    question.get_by_label("blue").check()
    question.get_by_role("button", name="Answer").click()
    expect(question.get_by_text("answered")).to_be_visible()
    idle(page)
    answered = [
        e["body"]["answers"] for e in live.events(session) if e["body"]["kind"] == "question.answered"
    ]
    assert answered[-1] == [["blue"]]


def test_a_failed_turn_says_why_and_can_be_tried_again(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    send(page, "fail 400 always")
    end = timeline(page).get_by_role("group", name="End of the turn: failed").last
    expect(end).to_contain_text("The script says: fail with 400.", timeout=TURN)
    expect(end).to_contain_text("change the prompt or the model")
    end.get_by_role("button", name="Try again").click()
    expect(timeline(page).get_by_text("tried again").last).to_be_visible(timeout=TURN)
    idle(page)


def test_others_are_seen_and_their_typing(visit, live: LiveServer, session: str) -> None:
    other = live.api.post("/users", {"name": "Lin Duarte", "email": "lin@example.com", "role": "member"})
    mine, theirs = visit(f"/sessions/{session}"), visit(f"/sessions/{session}", user_id=other["id"])
    expect(mine.get_by_label("Also here: Lin Duarte")).to_be_visible()
    theirs.get_by_label("Prompt", exact=True).press_sequentially("say: hello")
    expect(mine.get_by_text("Lin Duarte is typing")).to_be_visible()
    theirs.keyboard.press("Control+Enter")
    prompt = timeline(mine).get_by_role("article", name="Prompt of Lin Duarte").last
    expect(prompt).to_contain_text("say: hello", timeout=TURN)
    idle(mine)
    theirs.goto("/")
    expect(mine.get_by_label("Also here: Lin Duarte")).to_have_count(0)


def test_a_viewer_watches_and_can_do_no_more(visit, live: LiveServer, session: str) -> None:
    viewer = live.api.post("/users", {"name": "Mia Kaur", "email": "mia@example.com", "role": "viewer"})
    page = visit(f"/sessions/{session}", user_id=viewer["id"])
    expect(page.get_by_text("You may watch this session.")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_count(0)
    page.get_by_role("button", name="More").click()
    expect(page.get_by_role("menuitem", name="Archive")).to_have_count(0)


def test_a_lost_connection_is_told_and_mended(visit, live: LiveServer, relay, watch, session: str) -> None:
    watch.expected = ("Failed to load resource", "WebSocket connection to")
    page = visit(f"/sessions/{session}")
    send(page, "say 300 words every 20 ms")
    expect(timeline(page).locator(".prose-growing")).to_be_visible(timeout=TURN)
    relay.shut()
    banner = page.get_by_text("Reconnecting… Your work goes on.")
    expect(banner).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Agent Working You Offline"))).to_be_visible()
    relay.reopen()
    expect(banner).to_have_count(0, timeout=TURN)
    for _ in range(10):
        relay.cut()
        page.wait_for_timeout(150)
    idle(page)
    same_as_the_log(page, live, session)


def test_the_server_is_killed_in_the_middle_of_a_text(visit, live: LiveServer, watch, session: str) -> None:
    watch.expected = ("Failed to load resource", "WebSocket connection to")
    page = visit(f"/sessions/{session}")
    send(page, "say 300 words every 20 ms")
    expect(timeline(page).locator(".prose-growing")).to_be_visible(timeout=TURN)
    live.kill()
    expect(page.get_by_text("Reconnecting… Your work goes on.")).to_be_visible()
    live.start()
    expect(page.get_by_text("Reconnecting…")).to_have_count(0, timeout=TURN)
    idle(page)
    assert max(len(words) for words in same_as_the_log(page, live, session)) >= 300


def test_a_prompt_that_was_not_sent_outlasts_the_page(visit, live: LiveServer, watch, session: str) -> None:
    watch.expected = ("Failed to load resource", "WebSocket connection to")
    page = visit(f"/sessions/{session}")
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
    live.kill()
    send(page, "say: kept for later")
    expect(page.get_by_text("Not sent:")).to_be_visible()
    send(page, "say: not wanted any more")
    page.goto("about:blank")
    live.start()
    page.goto(f"/sessions/{session}")
    expect(page.get_by_text("Not sent:")).to_have_count(2)
    page.get_by_role("button", name="Discard").last.click()
    expect(page.get_by_text("Not sent:")).to_have_count(1)
    page.get_by_role("button", name="Send again").click()
    expect(timeline(page).get_by_text("kept for later", exact=True).last).to_be_visible(timeout=TURN)
    idle(page)
    page.reload()
    expect(timeline(page).get_by_text("kept for later", exact=True).last).to_be_visible()
    expect(page.get_by_text("Not sent:")).to_have_count(0)
    queued = [e["body"]["text"] for e in live.events(session) if e["body"]["kind"] == "prompt.queued"]
    assert queued.count("say: kept for later") == 1
    assert "say: not wanted any more" not in queued


def test_a_prompt_that_arrived_unanswered_is_not_sent_twice(
    visit, live: LiveServer, watch, session: str
) -> None:
    watch.expected = ("Failed to load resource",)
    page = visit(f"/sessions/{session}")

    def answer_lost(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route(f"**/api/sessions/{session}/prompts", answer_lost, times=1)
    send(page, "say: only once")
    expect(page.get_by_text("Not sent:")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_text("Not sent:")).to_have_count(0)
    expect(timeline(page).get_by_text("only once", exact=True).last).to_be_visible(timeout=TURN)
    idle(page)
    queued = [e["body"]["text"] for e in live.events(session) if e["body"]["kind"] == "prompt.queued"]
    assert queued.count("say: only once") == 1


HOSTILE = (
    r"say: <img src=x onerror=alert(1)> <script>alert(1)</script> "
    r"[press me](javascript:alert(1)) [data](data:text/html,<script>alert(1)</script>) "
    r"![out](http://203.0.113.9/pixel.png) \n\n<iframe src=http://203.0.113.9></iframe>\n\n"
    r"\u202egnp.exe\u200b"
)


def test_what_a_model_writes_neither_runs_nor_calls_out(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    page.on("dialog", lambda dialog: pytest.fail(f"it ran: {dialog.message}"))
    send(page, HOSTILE)
    place = timeline(page)
    expect(place.get_by_text("<script>alert(1)</script>").last).to_be_visible(timeout=TURN)
    idle(page)
    assert place.locator("script, iframe, img[src^=http]").count() == 0
    hrefs = place.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href') || '')")
    assert not any(href.startswith(("javascript:", "data:")) for href in hrefs)
    send(page, r"run: printf '\033]0;owned\007\033[2J<b>bold</b>\033[31mred\n'; seq 20000")
    expect(place.get_by_text("20000").last).to_be_visible(timeout=TURN)
    idle(page)


def test_an_event_has_an_address(visit, live: LiveServer, session: str) -> None:
    first = next(e["seq"] for e in live.events(session) if e["body"]["kind"] == "prompt.queued")
    page = visit(f"/sessions/{session}#{first}")
    expect(timeline(page).get_by_text("say: ready").first).to_be_in_viewport()


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fccfc0500f000485018084a98c210000000049454e44ae426082"
)


def test_a_picture_goes_with_a_prompt(visit, session: str) -> None:
    page = visit(f"/sessions/{session}")
    page.locator("input[type=file]").set_input_files(
        {"name": "cart.png", "mimeType": "image/png", "buffer": PIXEL}
    )
    expect(page.get_by_role("list", name="Pictures").get_by_role("img")).to_be_visible()
    send(page, "what do you see")
    expect(timeline(page).get_by_role("img", name="cart.png").last).to_be_visible(timeout=TURN)
    expect(timeline(page).get_by_text("images: image/png").last).to_be_visible(timeout=TURN)
    idle(page)


def test_rename_archive_and_restore(visit, live: LiveServer) -> None:
    session_id = live.api.post("/sessions", {"title": "Old name"})["id"]
    page = visit(f"/sessions/{session_id}")
    page.get_by_role("button", name="Old name").click()
    page.get_by_label("Title").fill("New name")
    page.get_by_label("Title").press("Enter")
    expect(page.get_by_role("heading", name="New name")).to_be_visible()
    page.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Archive").click()
    expect(page.get_by_text("This session is archived.")).to_be_visible()
    page.goto("/?archived=true")
    expect(page.get_by_role("link", name=re.compile("New name"))).to_be_visible()
    page.goto(f"/sessions/{session_id}")
    page.get_by_role("button", name="Restore").click()
    expect(page.get_by_text("This session is archived.")).to_have_count(0)


def test_a_phone_says_how_much_effort_is_made(visit, session: str) -> None:
    page = visit(f"/sessions/{session}", phone=True)
    value = page.get_by_role("button", name="Effort").get_by_text(re.compile("High|Medium|Low"))
    expect(value).to_be_in_viewport(ratio=1)
    box = value.bounding_box()
    assert box is not None and box["width"] > 15


@pytest.mark.parametrize(
    "path", ["/", "/settings/profile", "/settings/members", "/settings/models", "session"]
)
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(visit, session: str, path: str, dark: bool) -> None:
    page = visit(f"/sessions/{session}" if path == "session" else path, phone=True, dark=dark)
    expect(page.get_by_role("main")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    wide = page.evaluate(
        """() => [...document.querySelectorAll('main, header, [role=log], textarea, button')]
            .filter(one => { const box = one.getBoundingClientRect(); return box.width && box.right > 376 && !one.closest('nav') })
            .map(one => one.outerHTML.slice(0, 120))"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
