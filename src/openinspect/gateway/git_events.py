"""How many events of git a turn may write into its session's log: ``MOST`` of a kind, then one warning that more followed, then none.

A program in a sandbox can push hundreds of times a second, and be refused as often. The counts are this process's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from openinspect.protocol.events import Pushed, PushRefused, Warned

MOST = 200
_REMEMBERED = 10_000

_MORE = {
    "git.pushed": ("More branches were pushed in this turn than are listed here.", "See them in the repository."),
    "git.refused": (
        "More pushes were refused in this turn than are listed here.",
        "Stop the session if it goes on pushing in vain.",
    ),
}  # fmt: skip


class GitEvents:
    def __init__(self, most: int | None = None) -> None:
        self._most = MOST if most is None else most
        self._written: OrderedDict[tuple[str, str | None, str], int] = OrderedDict()

    def within(
        self, session_id: str, turn_id: str | None, events: Sequence[Pushed | PushRefused]
    ) -> list[Pushed | PushRefused | Warned]:
        """Those of ``events`` that are to be written, and the warning once. What happens while no turn runs is counted together."""
        kept: list[Pushed | PushRefused | Warned] = []
        for event in events:
            key = (session_id, turn_id, event.kind)
            written = self._written.pop(key, 0)
            self._written[key] = written + 1
            if written < self._most:
                kept.append(event)
            elif written == self._most:
                message, remedy = _MORE[event.kind]
                kept.append(Warned(scope="git", message=message, remedy=remedy))
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return kept
