"""Every page holds WCAG 2.2 AA as far as axe can tell, in light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
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


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(visit, session: str, dark: bool) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not there: run `npm ci` in web/")
    page = visit(dark=dark)
    found: list[str] = []
    for path in PAGES:
        page.goto(path.replace("session", f"/sessions/{session}"))
        expect(page.get_by_role("main").first).to_be_visible()
        expect(page.get_by_text("Fetching")).to_have_count(0)
        page.evaluate(AXE.read_text())
        result = page.evaluate(f"axe.run(document, {{runOnly: {RULES}}})")
        for fault in result["violations"]:
            places = [node["html"][:160] for node in fault["nodes"][:3]]
            found.append(f"{path}: {fault['id']}: {fault['help']}: {places}")
    assert found == []
