"""How many streams each person has open in this process: whoever has as many as are allowed is refused another."""

from __future__ import annotations

from openinspect.problems import TooMany


class StreamPlaces:
    def __init__(self) -> None:
        self.open: dict[str, int] = {}

    def check(self, user_id: str, most: int) -> None:
        """Raises ``TooMany`` when there is no place left."""
        if self.open.get(user_id, 0) >= most:
            raise TooMany(
                "too_many_streams",
                f"You have {most} live streams open already.",
                "Close some of them: pages in other tabs, or commands that follow a session.",
            )

    def take(self, user_id: str, most: int) -> None:
        """``leave`` it afterwards. Raises ``TooMany``."""
        self.check(user_id, most)
        self.open[user_id] = self.open.get(user_id, 0) + 1

    def leave(self, user_id: str) -> None:
        left = self.open[user_id] - 1
        if left:
            self.open[user_id] = left
        else:
            del self.open[user_id]
