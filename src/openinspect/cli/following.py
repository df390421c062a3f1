"""Following a session: its stream, over lost connections, as a transcript; and what the session has left in the end.

A server that was started anew has another token, perhaps another port: after a lost connection, or a refused token, its record is read again.
What can't be reached for ``_MOST_FAILURES`` tries in a row, some five minutes, ends the command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import typer

from openinspect.problems import Unavailable

from . import cursors
from .client import ApiError, Client
from .console import error_console, out, settings
from .text import one_line, program
from .transcript import Transcript

_RECONNECT_SECONDS = (0.2, 0.5, 1, 2, 5)
_MOST_FAILURES = 60
_AWAY = (502, 503, 504)
"""How a proxy, or the server itself, says that something behind it does not answer."""


def link(api: Client, session_id: str) -> str:
    return f"{api.url}/sessions/{session_id}"


def follow_session(
    api: Client,
    session_id: str,
    *,
    after: int = 0,
    until: Callable[[Transcript], bool] | None = None,
    as_json: bool = False,
    verbose: bool = False,
    prompts: list[dict[str, Any]] | None = None,
    note: str = "",
) -> Transcript:
    """Print a session as it goes on, over lost connections, for ever or ``until`` this says of what was printed that it is enough.

    ``prompts``: those that were unfinished at ``after``. ``note`` is said first, when Ctrl-C leaves already.
    """
    transcript = Transcript(out(), session_id, verbose=verbose)
    transcript.know(prompts or [])
    transcript.seq = after
    failures = 0
    try:
        if note:
            error_console().print(note, style="yellow")
        while True:
            try:
                if failures:
                    api.look_again()
                if until is not None and until(transcript):
                    break
                with api.stream(session_id, transcript.seq) as messages:
                    for message in messages:
                        if failures:
                            error_console().print("Connected again.", style="yellow")
                        failures = 0
                        if message["type"] == "reset":
                            transcript.close()
                            error_console().print(
                                "This session's log is not the one that was followed before (a backup was restored): it is shown from its beginning.",
                                style="yellow",
                            )
                            transcript = Transcript(out(), session_id, verbose=verbose)
                        _show(transcript, message, as_json)
                        if until is not None and until(transcript):
                            return transcript
            except (Unavailable, ApiError) as problem:
                if isinstance(problem, ApiError) and not _passes(problem, api):
                    raise
                if failures == 0:
                    error_console().print(
                        f"The connection was lost ({problem.code}); the work goes on. Connecting again …",
                        style="yellow",
                    )
                failures += 1
                if failures > _MOST_FAILURES:
                    raise
                time.sleep(_RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS)) - 1])
    except KeyboardInterrupt:
        transcript.close()
        error_console().print(
            f"\nLeft; what runs goes on.\n  come back: {program()} sessions attach {session_id}\n"
            f"  stop it:   {program()} sessions stop {session_id}",
            style="yellow",
        )
        raise typer.Exit(130) from None
    finally:
        transcript.close()
        _keep_cursor(session_id, transcript.seq)
    return transcript


def _passes(problem: ApiError, api: Client) -> bool:
    """Whether asking again may help: the server is away, or one that was started anew knows the token no more."""
    if problem.status in _AWAY:
        return True
    if problem.status != 401:
        return False
    try:
        return api.look_again()
    except Unavailable:
        return True  # it ends, or it is not yet there again


def ended(prompt_id: str) -> Callable[[Transcript], bool]:
    """Until a prompt has ended, or was taken back."""
    return lambda transcript: prompt_id in transcript.ended


class Quiet:
    """Until nothing runs or waits in the session any more, and all that there is was printed. Asks the server, once at the beginning and
    whenever a prompt has ended, since others may have queued more."""

    def __init__(self, api: Client, session_id: str) -> None:
        self.last_outcome: str | None = None
        """How the last turn ended, once it is quiet; None when there was none."""
        self._api = api
        self._session_id = session_id
        self._asked: tuple[Transcript, int] | None = None
        self._head: int | None = None

    def __call__(self, transcript: Transcript) -> bool:
        asks = (transcript, len(transcript.ended))
        if asks != self._asked:
            detail = self._api.get(f"/sessions/{self._session_id}")
            self._asked, self.last_outcome = asks, detail["last_outcome"]
            self._head = detail["head"] if detail["activity"] == "idle" else None
        return self._head is not None and transcript.seq >= self._head


def exit_as(transcript: Transcript, prompt_id: str) -> None:
    """End the command as the prompt has: with exit code 0 when it was completed, else 1."""
    if transcript.ended[prompt_id] != "completed":
        raise typer.Exit(1)


def _show(transcript: Transcript, message: dict[str, Any], as_json: bool) -> None:
    if message["type"] == "events":
        if as_json:
            for event in message["events"]:
                if event["seq"] > transcript.seq:
                    transcript.seq = event["seq"]
                    transcript.note_end(event["body"])
                    print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            transcript.events(message["events"])
    elif message["type"] == "deltas" and not as_json:
        transcript.deltas(message["deltas"])


def summarise(api: Client, session_id: str) -> None:
    """What the session has left: pull requests, and where to look."""
    session = api.get(f"/sessions/{session_id}")
    for one in session["pull_requests"]:
        out().print(
            f"\nPull request #{one['number']} of {one_line(one['repository'])}: {one_line(one['title'])} [{one['state']}]"
        )
        out().print(f"  {one_line(one['head'])} → {one_line(one['base'])}")
        if one["state"] == "open":
            out().print(f"  merge it: {program()} repos merge {one['id']}")
    out().print(f"Page: {link(api, session_id)}")


def _keep_cursor(session_id: str, seq: int) -> None:
    reason = cursors.keep(settings().data_dir, session_id, seq)
    if reason is not None:
        error_console().print(
            f"Where you left could not be kept ({reason}): `sessions attach` will show everything.",
            style="dim",
        )
