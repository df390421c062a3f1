"""A session's stream as text in a terminal: what the agent writes as it writes it, its tools with their results, steps and endings.

The fold is by sequence number and by place in a part, so that a resumed stream prints nothing twice. A text that is being written is not torn
apart: what happens meanwhile beside it (a commit, a push) is printed when it has ended. A prompt stands where its turn begins. What the agent
wrote, or a tool printed, is shown as text alone: what would move the cursor or change the terminal is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from .running import Call, RunningTools
from .text import clean, money, one_line, program

_OUTPUT_LINES = 12
_STATES = {"completed": ("✓", "green"), "failed": ("✗", "red"), "stopped": ("■", "yellow")}


class Transcript:
    def __init__(
        self, console: Console, session_id: str = "SESSION", *, verbose: bool = False, live: bool = True
    ) -> None:
        """``live``: what is printed is happening now, so that tools which run are shown while they do."""
        self.console = console
        self.session_id = session_id
        self.verbose = verbose
        self.live = live
        self.seq = 0
        self.pull_requests: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, str] = {}
        """How each prompt that is over has ended: ``completed``, ``failed``, ``stopped`` or ``cancelled``."""
        self.finished: dict[str, dict[str, Any]] = {}
        """Of each turn its ``turn.finished``."""
        self._open: str | None = None
        self._waiting: list[Text] = []
        """Lines that come when the open text has ended."""
        self._printed: dict[str, int] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        self._prompts: dict[str, str] = {}
        """Prompts whose turn has not begun, or not been shown: what to print then."""
        self._unfinished: set[str] = set()
        self._scripted = False
        self._lock = threading.RLock()
        self.running = RunningTools(console, self._lock, lambda words: self._aside(words, "dim"))

    def know(self, prompts: list[dict[str, Any]]) -> None:
        """The prompts that are unfinished where the stream begins: their ``prompt.queued`` has gone by."""
        for one in prompts:
            if one["status"] in ("queued", "running"):
                self._unfinished.add(one["id"])
                self._prompts[one["id"]] = f"{one['author']['name']}: {one['text']}"

    @contextmanager
    def _printing(self) -> Iterator[None]:
        with self._lock:
            self.running.hide()
            try:
                yield
            finally:
                if self.live and self._open is None:
                    self.running.show()

    def close(self) -> None:
        """Nothing more comes: end the open line, and what is shown of running tools."""
        with self._lock:
            self.running.hide()
            self.running.clear()
            self._close()

    # ── streaming text ────────────────────────────────────────────────────────────────────────────
    def deltas(self, deltas: list[dict[str, Any]]) -> None:
        with self._printing():
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
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self.console.print(line, soft_wrap=True)

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

    def _aside(self, text: str, style: str = "") -> None:
        """A line about something beside the text that is being written: after it."""
        if self._open is None:
            self._line(text, style)
        else:
            self._waiting.append(Text(clean(text), style=style))

    # ── events ────────────────────────────────────────────────────────────────────────────────────
    def events(self, events: list[dict[str, Any]]) -> None:
        with self._printing():
            for event in events:
                if event["seq"] <= self.seq:
                    continue
                self.seq = event["seq"]
                self.note_end(event["body"])
                if event["body"]["kind"] == "tool.started":
                    self._tool_started(event)
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
        said = f"{body['author']['name']}: {body['text']}"
        if self._unfinished - {body["prompt_id"]}:
            self._prompts[body["prompt_id"]] = said
            self._aside(f"queued: {one_line(said)[:200]}", "dim")
        else:
            self._prompts.pop(body["prompt_id"], None)
            self._line(f"\n{said}", "bold")
        self._unfinished.add(body["prompt_id"])

    def _on_prompt_edited(self, body: dict[str, Any]) -> None:
        said = f"{body['by']['name']}: {body['text']}"
        if body["prompt_id"] in self._prompts:
            self._prompts[body["prompt_id"]] = said
        self._aside(f"edited: {one_line(said)[:200]}", "dim")

    def _on_prompt_cancelled(self, body: dict[str, Any]) -> None:
        self._unfinished.discard(body["prompt_id"])
        said = self._prompts.pop(body["prompt_id"], None)
        which = f": {one_line(said)[:100]}" if said else "."
        self._aside(f"The queued prompt was taken back by {body['by']['name']}{which}", "yellow")

    def _on_turn_started(self, body: dict[str, Any]) -> None:
        self._scripted = False
        said = self._prompts.pop(body["prompt_id"], None)
        if said is not None:
            self._line(f"\n{said}", "bold")

    def _on_model_called(self, body: dict[str, Any]) -> None:
        self._scripted = self._scripted or body["scripted"]

    def _on_sandbox_changed(self, body: dict[str, Any]) -> None:
        said = {
            "requested": "Sandbox requested",
            "booting": "Sandbox starting",
            "ready": "Sandbox ready",
        }.get(body["state"], f"Sandbox {body['state']}")
        bad = body["state"] in ("failed", "lost")
        self._aside(f"· {said}" + (f": {body['reason']}" if body["reason"] else ""), "red" if bad else "dim")
        if bad and body["remedy"]:
            self._aside(f"  → {body['remedy']}", "red")

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

    def _tool_started(self, event: dict[str, Any]) -> None:
        body = event["body"]
        self._inputs[body["call_id"]] = body["input"]
        given = one_line(_given(body["input"]))
        self.running.started(
            body["call_id"], Call(one_line(body["tool"]), given, datetime.fromisoformat(event["at"]))
        )

    def _on_tool_finished(self, body: dict[str, Any]) -> None:
        self.running.finished(body["call_id"])
        mark, colour = ("✓", "green") if body["state"] == "completed" else ("✗", "red")
        exit_code = body.get("exit_code")
        if exit_code:
            mark, colour = "✗", "yellow"
        given = self._inputs.pop(body["call_id"], {})
        self._close()
        head = Text()
        head.append(f"{mark} ", colour)
        head.append(one_line(body["tool"]), "bold cyan")
        head.append("  " + clean(_given(body["input"] or given)))
        if exit_code:
            head.append(f"  (exit code {exit_code})", colour)
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
        self._aside(f"● commit {body['sha'][:10]} {body['subject']} — {body['author']}", "magenta")

    def _on_git_pushed(self, body: dict[str, Any]) -> None:
        self._aside(
            f"● pushed {(body['new_sha'] or 'deleted')[:10]} to {body['ref'].removeprefix('refs/heads/')}",
            "magenta",
        )

    def _on_git_refused(self, body: dict[str, Any]) -> None:
        self._aside(f"✗ push of {body['ref']} refused: {body['reason']}", "red")

    def _on_pull_request(self, body: dict[str, Any]) -> None:
        self.pull_requests[body["pull_request_id"]] = body
        self._aside(f"● pull request #{body['number']} {body['change']}: {body['title']}", "bold magenta")

    def _on_question_asked(self, body: dict[str, Any]) -> None:
        for question in body["questions"]:
            self._line(f"? {question['text']}", "bold yellow")
            for option in question["options"]:
                self._line(f"    - {option['label']}  {option['description']}", "yellow")
        self._line(
            f"  → answer: {program()} sessions answer {self.session_id} {body['question_id']} TEXT", "yellow"
        )

    def _on_warning(self, body: dict[str, Any]) -> None:
        self._aside(f"! {body['message']}" + (f" → {body['remedy']}" if body["remedy"] else ""), "yellow")

    def _on_agent_restarted(self, body: dict[str, Any]) -> None:
        self._line(f"! The agent was started again: {body['reason']}", "yellow")

    def _on_turn_resumed(self, body: dict[str, Any]) -> None:
        self._line(f"! The turn goes on: {body['reason']}", "yellow")

    def _on_turn_finished(self, body: dict[str, Any]) -> None:
        self.running.clear()
        self._inputs.clear()
        self._unfinished.discard(body["prompt_id"])
        mark, colour = _STATES[body["status"]]
        tokens = body["input_tokens"] + body["output_tokens"]
        cost = money(body["cost_usd"], scripted=self._scripted, digits=4)
        self._line(
            f"\n{mark} {body['status']} in {body['duration_ms'] / 1000:.1f} s · {tokens:,} tokens · {cost}",
            f"bold {colour}",
        )
        if body["reason"]:
            self._line(f"  {body['reason']}", colour)
        for done in body["done"]:
            self._line(f"  already done: {done}", colour)
        if body["remedy"]:
            self._line(f"  → {body['remedy']}", colour)
        if body["status"] != "completed":
            self._line(
                f"  → run it again: {program()} sessions retry {self.session_id} {body['prompt_id']}", colour
            )


def _given(given: dict[str, Any]) -> str:
    for key in ("command", "filePath", "path", "pattern", "title", "url", "query", "description"):
        if isinstance(given.get(key), str):
            return given[key].splitlines()[0][:200] if given[key].strip() else ""
    return ""
