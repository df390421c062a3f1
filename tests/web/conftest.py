"""The page in the system's Chromium, before the real server with real sandboxes; only the model is scripted.

``live``    one server for the tests of a file
``session`` one session on it, with a warm sandbox and no repository
``relay``   the address that browsers use, which stays the same when the server is killed and started again
``visit``   opens the page as a person: signed in, watched. A test fails at its end when a page has thrown, has logged an error that the
            test did not expect, or has asked another machine for anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from openinspect.settings import Settings
from openinspect.testing.live_server import LiveServer
from openinspect.testing.sample_repository import create_sample_repository

from .relay import Relay

STATIC = Path(__file__).parents[2] / "src" / "openinspect" / "web" / "static"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

Visit = Callable[..., Page]


@pytest.fixture(scope="session")
def built() -> None:
    if not (STATIC / "index.html").is_file():
        pytest.fail("The web app has not been built: run `make web`.")


@pytest.fixture(scope="module")
def live(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("web") / "data"
    with LiveServer(folder, script="demo", OPENINSPECT_SANDBOX_DISK_MIB="256") as server:
        yield server


@pytest.fixture(scope="module")
def relay(live: LiveServer) -> Iterator[Relay]:
    def target() -> tuple[str, int]:
        if live.record is None:
            raise ConnectionRefusedError
        place = urlsplit(live.record.url)
        return place.hostname or "127.0.0.1", place.port or 80

    with Relay(target) as relay:
        yield relay


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a module, because Playwright's event loop counts as running in this thread until it is closed: no test of another
    folder could run one of its own beside it."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    # its own Node needs a library that not every machine has; the toolbox's was chosen to need none
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYWRIGHT_NODEJS_PATH", str(Settings.model_validate({}).toolbox / "bin" / "node"))
        started = sync_playwright().start()
    try:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=found, args=args)
        yield browser
        browser.close()
    finally:
        started.stop()


@pytest.fixture(scope="module")
def sample(live: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample repository with the failing test; the server does not know it yet."""
    path = tmp_path_factory.mktemp("repositories") / "lending"
    create_sample_repository(path)
    return path


@pytest.fixture(scope="module")
def session(live: LiveServer) -> str:
    session_id, _ = live.session("say: ready", title="A place to try things out")
    live.wait(session_id, "turn.finished", 180)
    return session_id


class Watch:
    """What a page did that it should not have done."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.faults: list[str] = []
        self.expected: tuple[str, ...] = ()

    def follow(self, context: BrowserContext) -> None:
        def console(message) -> None:
            if message.type == "error":
                self.faults.append(f"console: {message.text}")

        def request(asked) -> None:
            place = urlsplit(asked.url)
            if (
                place.scheme in ("http", "https", "ws", "wss")
                and place.netloc != urlsplit(self.origin).netloc
            ):
                self.faults.append(f"asked another machine: {asked.url}")

        context.on("console", console)
        context.on("weberror", lambda error: self.faults.append(f"thrown: {error.error}"))
        context.on("request", request)

    def check(self) -> None:
        left = [fault for fault in self.faults if not any(words in fault for words in self.expected)]
        assert left == []


@pytest.fixture
def watch(relay: Relay) -> Iterator[Watch]:
    watch = Watch(relay.url)
    yield watch
    watch.check()


@pytest.fixture
def visit(browser: Browser, live: LiveServer, relay: Relay, watch: Watch) -> Iterator[Visit]:
    contexts: list[BrowserContext] = []

    def open_page(
        path: str = "/", *, user_id: str | None = None, phone: bool = False, dark: bool = False
    ) -> Page:
        """The page as the owner or as another person. On a phone: 375 pixels wide and touched."""
        context = browser.new_context(
            base_url=relay.url,
            viewport={"width": 375, "height": 740} if phone else {"width": 1360, "height": 850},
            has_touch=phone,
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(30_000)
        contexts.append(context)
        watch.follow(context)
        page = context.new_page()
        page.goto(f"/signin#token={signin_token(live, user_id)}")
        page.wait_for_url("**/")
        if path != "/":
            page.goto(path)
        return page

    yield open_page
    relay.reopen()
    for context in contexts:
        context.close()


def signin_token(live: LiveServer, user_id: str | None = None) -> str:
    user_id = user_id or live.api.get("/me")["user"]["id"]
    return live.api.post(f"/users/{user_id}/signin-link", {})["url"].partition("#token=")[2]
