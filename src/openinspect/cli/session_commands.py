"""``openinspect run`` and ``openinspect sessions …``."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from openinspect.problems import Invalid, Unavailable

from . import cursors
from .client import CLONE_SECONDS, Client
from .console import age, ask, client, error_console, out, settings
from .transcript import Transcript, clean

sessions = typer.Typer(help="Look at sessions, prompt them, follow them, end them.", no_args_is_help=True)

SessionArg = Annotated[
    str, typer.Argument(help="The session's id, or its last characters.", show_default=False)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Model, such as anthropic/claude-sonnet-4-6; `openinspect models` lists them."),
]
EffortOption = Annotated[str | None, typer.Option(help="How much the model thinks, such as high.")]
FollowOption = Annotated[
    bool, typer.Option("--follow/--detach", help="Follow the work, or leave it to itself.")
]

_RECONNECT_SECONDS = (0.2, 0.5, 1, 2, 5)


def find(api: Client, reference: str) -> str:
    """A session's id by its whole id, or by how it ends."""
    if reference.startswith("ses_") and len(reference) > 20:
        return reference
    page = api.get("/sessions", limit=100)
    archived = api.get("/sessions", status="archived", limit=100)
    found = [one["id"] for one in [*page["items"], *archived["items"]] if one["id"].endswith(reference)]
    if len(found) == 1:
        return found[0]
    what = "No session" if not found else f"{len(found)} sessions"
    raise Invalid(
        "session_unclear",
        f"{what} of the newest 100 ends with “{reference}”.",
        "See `openinspect sessions list`.",
    )


def repository(api: Client, reference: str) -> str:
    """The id of a repository: by name, by folder on the server's machine, or by an address that is cloned first."""
    known = {one["name"].lower(): one["id"] for one in api.get("/repositories")}
    if reference.lower() in known:
        return known[reference.lower()]
    if "://" in reference or (":" in reference and not Path(reference).exists()):
        with error_console().status(f"Cloning {clean(reference)} …"):
            return api.post("/repositories", {"url": reference}, seconds=CLONE_SECONDS)["id"]
    folder = Path(reference).expanduser().absolute()
    return api.post("/repositories", {"path": str(folder)})["id"]


def run(
    prompt: Annotated[str, typer.Argument(help="What is to be done.", show_default=False)],
    repo: Annotated[
        list[str] | None,
        typer.Option(
            help="Repository: a folder on the server's machine, an address to clone, or the name of one that is known. Several times for several.",
            show_default=False,
        ),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="Branch to begin from.", show_default="the default branch")
    ] = None,
    model: ModelOption = None,
    effort: EffortOption = None,
    title: Annotated[str | None, typer.Option(help="The session's title.")] = None,
    attach: Annotated[list[Path] | None, typer.Option(help="A picture for the agent. Up to six.")] = None,
    follow: FollowOption = True,
    as_json: JsonFlag = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show all of what the tools printed, and the boot log.")
    ] = False,
) -> None:
    """Give a task to an agent in a sandbox of its own; what it does ends up as a branch and a pull request.

    While following, Ctrl-C leaves: the work goes on. The exit code is 0 when the task was completed, and 1 when it failed, was stopped or taken back.
    """
    with client() as api:
        targets = [{"repository": repository(api, one), "branch": branch} for one in repo or []]
        body: dict[str, Any] = {
            "targets": targets,
            "title": title,
            "model": model,
            "effort": effort,
            "client_request_id": uuid.uuid4().hex,
        }
        said: dict[str, Any] = {"text": prompt, "client_request_id": uuid.uuid4().hex}
        if not attach:
            body["prompt"] = said
        session = api.post("/sessions", body)
        session_id = session["id"]
        if attach:
            said["attachments"] = [api.upload(session_id, file) for file in attach]
            api.post(f"/sessions/{session_id}/prompts", said)
            session = api.get(f"/sessions/{session_id}")
        prompt_id = session["prompts"][0]["id"]
        if not follow:
            if as_json:
                out().print_json(json.dumps(session))
            else:
                out().print(session_id, highlight=False)
                error_console().print(
                    f"It works by itself now. Follow it: openinspect sessions attach {session_id}\n{link(api, session_id)}"
                )
            return
        if not as_json:
            error_console().print(
                f"[dim]Session {session_id} · {session['model']} · {link(api, session_id)}[/dim]",
                highlight=False,
            )
        transcript = follow_session(api, session_id, until=prompt_id, as_json=as_json, verbose=verbose)
        if not as_json:
            summarise(api, session_id)
        _exit_as(transcript, prompt_id)


def link(api: Client, session_id: str) -> str:
    return f"{api.url}/sessions/{session_id}"


def follow_session(
    api: Client,
    session_id: str,
    *,
    after: int = 0,
    until: str | None = None,
    as_json: bool = False,
    verbose: bool = False,
) -> Transcript:
    """Print a session as it goes on, over lost connections, until a prompt has ended or was taken back (or for ever)."""
    transcript = Transcript(out(), verbose=verbose)
    transcript.seq = after
    failures = 0
    try:
        while until is None or until not in transcript.ended:
            try:
                with api.stream(session_id, transcript.seq) as messages:
                    for message in messages:
                        failures = 0
                        _show(transcript, message, as_json)
                        if until is not None and until in transcript.ended:
                            break
            except Unavailable as problem:
                if failures == 0:
                    error_console().print(
                        f"[yellow]The connection was lost; the work goes on. Connecting again …[/yellow] [dim]{problem.code}[/dim]"
                    )
                time.sleep(_RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS) - 1)])
                failures += 1
                if failures > 60:
                    raise
    except KeyboardInterrupt:
        error_console().print(
            f"\n[yellow]Left; the work goes on.[/yellow] Come back: openinspect sessions attach {session_id}   Stop it: openinspect sessions stop {session_id}"
        )
        raise typer.Exit(130) from None
    finally:
        _keep_cursor(session_id, transcript.seq)
    return transcript


def _exit_as(transcript: Transcript, prompt_id: str) -> None:
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
            f"\nPull request #{one['number']} of {one['repository']}: {clean(one['title'])} [{one['state']}]",
            markup=False,
            highlight=False,
        )
        out().print(f"  {one['head']} → {one['base']}", markup=False, highlight=False)
        if one["state"] == "open":
            out().print(f"  merge it: openinspect repos merge {one['id']}", markup=False, highlight=False)
    out().print(f"Page: {link(api, session_id)}", markup=False, highlight=False)


def _keep_cursor(session_id: str, seq: int) -> None:
    reason = cursors.keep(settings().data_dir, session_id, seq)
    if reason is not None:
        error_console().print(
            f"[dim]Where you left could not be kept ({reason}): `sessions attach` will show everything.[/dim]"
        )


# ── openinspect sessions … ────────────────────────────────────────────────────────────────────────
@sessions.command("list")
def list_sessions(
    mine: Annotated[bool, typer.Option(help="Only one's own.")] = False,
    archived: Annotated[bool, typer.Option(help="The archived ones.")] = False,
    search: Annotated[str | None, typer.Option("--search", "-s", help="Words of the title.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: JsonFlag = False,
) -> None:
    """The sessions, the one in which something happened last first."""
    with client() as api:
        page = api.get(
            "/sessions", mine=mine, status="archived" if archived else "active", q=search, limit=limit
        )
    if as_json:
        out().print_json(json.dumps(page["items"]))
        return
    if not page["items"]:
        out().print('No sessions yet. Start one: openinspect run "PROMPT" --repo PATH')
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("session", "state", "title", "repository", "pull request", "cost", "when"):
        table.add_column(column, overflow="ellipsis", no_wrap=column != "title")
    for one in page["items"]:
        state = one["activity"] if one["activity"] != "idle" else (one["last_outcome"] or "new")
        requests = ", ".join(f"#{pr['number']} {pr['state']}" for pr in one["pull_requests"])
        table.add_row(
            one["id"][-8:],
            state,
            clean(one["title"] or "—")[:60],
            ", ".join(target["repository"] for target in one["targets"]),
            requests,
            f"${one['cost_usd']:.2f}",
            age(one["updated_at"]),
        )
    out().print(table)


@sessions.command()
def show(
    session: SessionArg,
    as_json: JsonFlag = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """A session's transcript so far."""
    with client() as api:
        session_id = find(api, session)
        detail = api.get(f"/sessions/{session_id}")
        if as_json:
            out().print_json(json.dumps(detail))
            return
        transcript = Transcript(out(), verbose=verbose)
        while True:
            page = api.get(f"/sessions/{session_id}/events", after=transcript.seq, limit=1000)
            transcript.events(page["events"])
            if not page["more"]:
                break
        waiting = [one for one in detail["prompts"] if one["status"] == "queued"]
        for one in waiting:
            out().print(f"queued  {one['id']}  {clean(one['text'])[:100]}", markup=False, style="dim")
        summarise(api, session_id)


@sessions.command()
def attach(
    session: SessionArg,
    from_start: Annotated[
        bool, typer.Option(help="Print everything, not only what came since the last time.")
    ] = False,
    as_json: JsonFlag = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Follow a session live, from where one left it. Ctrl-C leaves; the work goes on."""
    with client() as api:
        session_id = find(api, session)
        after = 0 if from_start else cursors.read(settings().data_dir).get(session_id, 0)
        if after and not as_json:
            error_console().print(
                f"[dim]From event {after} on, where you left it; --from-start shows all.[/dim]"
            )
        follow_session(api, session_id, after=after, as_json=as_json, verbose=verbose)


@sessions.command()
def prompt(
    session: SessionArg,
    text: Annotated[str, typer.Argument(help="What is to be done next.", show_default=False)],
    model: ModelOption = None,
    effort: EffortOption = None,
    follow: FollowOption = True,
    as_json: JsonFlag = False,
) -> None:
    """Add a prompt to a session's queue."""
    with client() as api:
        session_id = find(api, session)
        head = api.get(f"/sessions/{session_id}")["head"]
        body = {"text": text, "model": model, "effort": effort, "client_request_id": uuid.uuid4().hex}
        queued = api.post(f"/sessions/{session_id}/prompts", body)
        _follow_prompt(api, session_id, head, queued, follow, as_json)


def _follow_prompt(
    api: Client, session_id: str, after: int, queued: dict[str, Any], follow: bool, as_json: bool
) -> None:
    """Follow a prompt that was just queued and end as it does, or only say which it is."""
    if not follow:
        if as_json:
            out().print_json(json.dumps(queued))
        else:
            out().print(f"{queued['status']}: {queued['id']}", highlight=False)
        return
    transcript = follow_session(api, session_id, after=after, until=queued["id"], as_json=as_json)
    _exit_as(transcript, queued["id"])


@sessions.command()
def stop(session: SessionArg) -> None:
    """Stop the turn that is running."""
    with client() as api:
        api.post(f"/sessions/{find(api, session)}/stop")
    out().print("Stopping; it has ended within five seconds.")


@sessions.command()
def cancel(
    session: SessionArg, prompt_id: Annotated[str, typer.Argument(help="Id of the queued prompt.")]
) -> None:
    """Take a queued prompt back."""
    with client() as api:
        api.call("DELETE", f"/sessions/{find(api, session)}/prompts/{prompt_id}")
    out().print("Taken back.")


@sessions.command()
def retry(session: SessionArg, follow: FollowOption = True, as_json: JsonFlag = False) -> None:
    """Run the last prompt again, after it failed or was stopped."""
    with client() as api:
        session_id = find(api, session)
        detail = api.get(f"/sessions/{session_id}")
        last = detail["prompts"][-1] if detail["prompts"] else None
        if last is None:
            raise Invalid(
                "nothing_to_retry", "Nothing has been run in this session yet.", "Give it a prompt."
            )
        queued = api.post(f"/sessions/{session_id}/prompts/{last['id']}/retry")
        _follow_prompt(api, session_id, detail["head"], queued, follow, as_json)


@sessions.command()
def answer(
    session: SessionArg,
    question_id: Annotated[str, typer.Argument(help="Id of the question.")],
    text: Annotated[list[str], typer.Argument(help="An answer for each of its questions.")],
) -> None:
    """Answer what the agent asked."""
    with client() as api:
        api.post(
            f"/sessions/{find(api, session)}/questions/{question_id}", {"answers": [[one] for one in text]}
        )
    out().print("Answered.")


@sessions.command()
def archive(session: SessionArg) -> None:
    """Put a session away; its sandbox is stopped, its files and transcript are kept."""
    with client() as api:
        api.post(f"/sessions/{find(api, session)}/archive")
    out().print("Archived. Bring it back with: openinspect sessions restore")


@sessions.command()
def restore(session: SessionArg) -> None:
    """Bring an archived session back."""
    with client() as api:
        api.post(f"/sessions/{find(api, session)}/restore")
    out().print("Restored.")


@sessions.command()
def delete(
    session: SessionArg, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a session with its files and transcript, for good. Its pull requests stay."""
    with client() as api:
        session_id = find(api, session)
        detail = api.get(f"/sessions/{session_id}")
        if not yes:
            ask(f"Delete “{clean(detail['title'] or session_id)}” with its files and transcript?")
        api.call("DELETE", f"/sessions/{session_id}")
    out().print("Deleted.")
