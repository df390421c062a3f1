"""Every page holds WCAG 2.2 AA as far as axe can tell, in light and dark, also on a phone. (A change's lines: ``test_main_job``.)"""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .axe import faults

PAGES = (
    "/",
    "session",
    "session?panel=changes",
    "session?panel=details",
    "/settings/profile",
    "/settings/tokens",
    "/settings/members",
    "/settings/repositories",
    "/settings/models",
)


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(visit, session: str, dark: bool, phone: bool) -> None:
    page = visit(dark=dark, phone=phone)
    found: list[str] = []
    for path in PAGES:
        page.goto(path.replace("session", f"/sessions/{session}"))
        expect(page.get_by_role("main").first).to_be_visible()
        expect(page.get_by_text("Fetching")).to_have_count(0)
        found += faults(page, path)
    assert found == []
