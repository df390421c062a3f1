"""A session's stream as text in a terminal: what the agent writes as it writes it, its tools with their results, steps and endings.

The fold is by sequence number and by place in a part, so that a resumed stream prints nothing twice. What the agent wrote, or a tool printed,
is shown as text alone: control characters that would move the cursor or change the terminal are left out.
"""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_OUTPUT_LINES = 12
_STATES = {"completed": ("✓", "green"), "failed": ("✗", "red"), "stopped": ("■", "yellow")}


def clean(text: str) -> str:
    """Text without what could change the terminal."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


class Transcript:
    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self.console = console
        self.verbose = verbose
        self.seq = 0
        self.pull_requests: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, str] = {}
        """How each prompt that is over has ended: ``completed``, ``failed``, ``stopped`` or ``cancelled``."""
        self.finished: dict[str, dict[str, Any]] = {}
        """Of each turn its ``turn.finished``."""
        self._open: str | None = None
        self._printed: dict[str, int] = {}
        self._kinds: dict[str, str] = {}
        self._inputs: dict[str, dict[str, Any]] = {}

    # ── streaming text ────────────────────────────────────────────────────────────────────────────
    def deltas(self, deltas: list[dict[str, Any]]) -> None:
        for delta in deltas:
            part, printed = delta["part_id"], self._printed.get(delta["part_id"], 0)
            skip = printed - delta["offset"]
            if skip < 0 or skip >= len(delta["text"]):
                continue
            self._write(part, delta["kind"], delta["text"][skip:])
            self._printed[part] = delta["offset"] + len(delta["text"])

    def _write(self, part: str, kind: str, text: str) -> None:
        if self._open != part:
            self._close()
            self._open = part
            self.console.print()
        self.console.print(
            Text(clean(text), style="dim italic" if kind == "reasoning" else ""), end="", soft_wrap=True
        )

    def _close(self) -> None:
        if self._open is not None:
            self.console.print()
            self._open = None

    def _whole(self, body: dict[str, Any]) -> None:
        part, text = body["part_id"], body["text"]
        printed = self._printed.pop(part, 0)
        if printed < len(text):
            self._write(part, body["kind"], text[printed:])
        if self._open == part:
            self._close()

    def _line(self, text: str, style: str = "") -> None:
        self._close()
        self.console.print(Text(clean(text), style=style), soft_wrap=True)

    # ── events ────────────────────────────────────────────────────────────────────────────────────
    def events(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["seq"] <= self.seq:
                continue
            self.seq = event["seq"]
            self.note_end(event["body"])
            show = getattr(self, "_on_" + event["body"]["kind"].replace(".", "_"), None)
            if show is not None:
                show(event["body"])

    def note_end(self, body: dict[str, Any]) -> None:
        """Note when an event ends a prompt."""
        if body["kind"] == "turn.finished":
            self.ended[body["prompt_id"]] = body["status"]
            self.finished[body["prompt_id"]] = body
        elif body["kind"] == "prompt.cancelled":
            self.ended[body["prompt_id"]] = "cancelled"

    def _on_text(self, body: dict[str, Any]) -> None:
        self._whole(body)

    _on_reasoning = _on_text

    def _on_prompt_queued(self, body: dict[str, Any]) -> None:
        self._line(f"\n{body['author']['name']}: {body['text']}", "bold")

    def _on_prompt_cancelled(self, body: dict[str, Any]) -> None:
        self._line(f"The queued prompt was taken back by {body['by']['name']}.", "yellow")

    def _on_sandbox_changed(self, body: dict[str, Any]) -> None:
        said = {
            "requested": "Sandbox requested",
            "booting": "Sandbox starting",
            "ready": "Sandbox ready",
        }.get(body["state"], f"Sandbox {body['state']}")
        bad = body["state"] in ("failed", "lost")
        self._line(f"· {said}" + (f": {body['reason']}" if body["reason"] else ""), "red" if bad else "dim")
        if bad and body["remedy"]:
            self._line(f"  → {body['remedy']}", "red")

    def _on_boot_step(self, body: dict[str, Any]) -> None:
        if (
            body["state"] == "failed"
            or self.verbose
            or (body["state"] == "completed" and body["step"] in ("clone", "setup", "start"))
        ):
            took = f" ({body['duration_ms'] / 1000:.1f} s)" if body.get("duration_ms") else ""
            self._line(
                f"· {body['step']} {body['state']}{took} {body['detail']}".rstrip(),
                "red" if body["state"] == "failed" else "dim",
            )

    def _on_boot_log(self, body: dict[str, Any]) -> None:
        if self.verbose:
            self._line("  " + body["text"].rstrip().replace("\n", "\n  "), "dim")

    def _on_tool_started(self, body: dict[str, Any]) -> None:
        self._inputs[body["call_id"]] = body["input"]

    def _on_tool_finished(self, body: dict[str, Any]) -> None:
        mark, colour = ("✓", "green") if body["state"] == "completed" else ("✗", "red")
        given = body["input"] or self._inputs.pop(body["call_id"], {})
        self._close()
        head = Text()
        head.append(f"{mark} ", colour)
        head.append(body["tool"], "bold cyan")
        head.append("  " + clean(_given(body["tool"], given)))
        self.console.print(head, soft_wrap=True)
        lines = clean(body["output"]).strip().splitlines()
        quiet = (
            body["tool"] in ("read", "glob", "grep", "list", "todowrite")
            and body["state"] == "completed"
            and not self.verbose
        )
        if lines and not quiet:
            shown = (
                lines
                if self.verbose or len(lines) <= _OUTPUT_LINES
                else [*lines[:4], f"… {len(lines) - 8} lines …", *lines[-4:]]
            )
            for line in shown:
                self.console.print(Text("    " + line[:400], style="dim"), soft_wrap=True)

    def _on_commit(self, body: dict[str, Any]) -> None:
        self._line(f"● commit {body['sha'][:10]} {body['subject']} — {body['author']}", "magenta")

    def _on_git_pushed(self, body: dict[str, Any]) -> None:
        self._line(
            f"● pushed {(body['new_sha'] or 'deleted')[:10]} to {body['ref'].removeprefix('refs/heads/')}",
            "magenta",
        )

    def _on_git_refused(self, body: dict[str, Any]) -> None:
        self._line(f"✗ push of {body['ref']} refused: {body['reason']}", "red")

    def _on_pull_request(self, body: dict[str, Any]) -> None:
        self.pull_requests[body["pull_request_id"]] = body
        self._line(f"● pull request #{body['number']} {body['change']}: {body['title']}", "bold magenta")

    def _on_question_asked(self, body: dict[str, Any]) -> None:
        for question in body["questions"]:
            self._line(f"? {question['text']}", "bold yellow")
            for option in question["options"]:
                self._line(f"    - {option['label']}  {option['description']}", "yellow")
        self._line(f"  → answer: openinspect sessions answer SESSION {body['question_id']} TEXT", "yellow")

    def _on_warning(self, body: dict[str, Any]) -> None:
        self._line(f"! {body['message']}" + (f" → {body['remedy']}" if body["remedy"] else ""), "yellow")

    def _on_agent_restarted(self, body: dict[str, Any]) -> None:
        self._line(f"! The agent was started again: {body['reason']}", "yellow")

    def _on_turn_resumed(self, body: dict[str, Any]) -> None:
        self._line(f"! The turn goes on: {body['reason']}", "yellow")

    def _on_turn_finished(self, body: dict[str, Any]) -> None:
        mark, colour = _STATES[body["status"]]
        tokens = body["input_tokens"] + body["output_tokens"]
        self._line(
            f"\n{mark} {body['status']} in {body['duration_ms'] / 1000:.1f} s · {tokens:,} tokens · ${body['cost_usd']:.4f}",
            f"bold {colour}",
        )
        if body["reason"]:
            self._line(f"  {body['reason']}", colour)
        for done in body["done"]:
            self._line(f"  already done: {done}", colour)
        if body["remedy"]:
            self._line(f"  → {body['remedy']}", colour)


def _given(tool: str, given: dict[str, Any]) -> str:
    for key in ("command", "filePath", "path", "pattern", "title", "url", "query", "description"):
        if isinstance(given.get(key), str):
            return given[key].splitlines()[0][:200] if given[key] else ""
    return ""


def markup(text: str) -> str:
    """For putting foreign text into rich's markup."""
    return escape(clean(text))
