"""What axe-core finds wrong with a page: WCAG 2.2 AA and its best practices, as far as a program can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"


def faults(page: Page, name: str) -> list[str]:
    """A line for each rule that the page breaks now. Skips the test where axe-core is not there."""
    if not AXE.is_file():
        pytest.skip("axe-core is not there: run `npm ci` in web/")
    # colours in the middle of a fade are nobody's choice
    page.evaluate(
        "Promise.allSettled(document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations !== Infinity)"
        ".map((one) => one.finished))"
    )
    page.evaluate(AXE.read_text())
    result = page.evaluate(f"axe.run(document, {{runOnly: {RULES}}})")
    found: list[str] = []
    for fault in result["violations"]:
        places = [node["html"][:160] for node in fault["nodes"][:3]]
        found.append(f"{name}: {fault['id']}: {fault['help']}: {places}")
    return found
