"""What ``openinspect doctor`` says about this host."""

from __future__ import annotations

from openinspect.sandboxes.provider import Finding
from openinspect.settings import Settings


async def run(settings: Settings) -> list[Finding]:
    return []
