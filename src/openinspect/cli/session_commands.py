"""``openinspect run`` and ``openinspect sessions …``."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from . import cursors, listing, pictures
from .client import Client, an_id
from .console import age, ask, client, error_console, out, settings
from .following import Quiet, ended, exit_as, follow_session, link, summarise
from .listing import Column
from .references import KEY_REMEDY, find, repository
from .retrying import to_retry
from .text import clean, money, one_line, program
from .transcript import Transcript

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
    if attach:
        pictures.check(attach)
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
                out().print(session_id)
                error_console().print(
                    f"It works by itself now. Follow it: {program()} sessions attach {session_id}\n{link(api, session_id)}"
                )
                _say_scripted(api, session["model"])
            return
        if not as_json:
            error_console().print(
                f"Session {session_id} · {session['model']} · {link(api, session_id)}", style="dim"
            )
            _say_scripted(api, session["model"])
        transcript = follow_session(api, session_id, until=ended(prompt_id), as_json=as_json, verbose=verbose)
        if not as_json:
            summarise(api, session_id)
        exit_as(transcript, prompt_id)


def _say_scripted(api: Client, model: str) -> None:
    """Say so when it is not the model itself that answers."""
    if any(one["id"] == model and one["scripted"] for one in api.get("/models")):
        error_console().print(
            f"A scripted model answers, which only knows what its script says. {KEY_REMEDY}", style="yellow"
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
        scripted: bool = api.get("/me")["server"]["scripted_model"]
    if as_json:
        out().print_json(json.dumps(page["items"]))
        return
    if not page["items"]:
        if search:
            out().print(f"No {'archived ' if archived else ''}session has “{one_line(search)}” in its title.")
        elif archived:
            out().print("No session is archived.")
        elif mine:
            out().print(f'You have no sessions yet. Start one: {program()} run "PROMPT" --repo PATH')
        else:
            out().print(f'No sessions yet. Start one: {program()} run "PROMPT" --repo PATH')
        return
    rows: list[tuple[str, ...]] = []
    for one in page["items"]:
        state = one["activity"] if one["activity"] != "idle" else (one["last_outcome"] or "new")
        requests = ", ".join(f"#{pr['number']} {pr['state']}" for pr in one["pull_requests"])
        repositories = ", ".join(target["repository"] for target in one["targets"])
        rows.append(
            (
                one["id"][-8:],
                state,
                one_line(one["title"] or "—")[:60],
                repositories,
                requests,
                money(one["cost_usd"]),
                age(one["updated_at"]),
            )
        )
    columns = (
        Column("session"),
        Column("state"),
        Column("title", least=16),
        Column("repository"),
        Column("pull request", drop=1),
        Column("cost", drop=3),
        Column("when", drop=2),
    )
    listing.show(out(), columns, rows)
    if scripted and any(one["cost_usd"] for one in page["items"]):
        error_console().print(
            "A scripted model answers on this server: for what it is said to cost nothing was paid.",
            style="dim",
        )


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
        transcript = Transcript(out(), session_id, verbose=verbose, live=False)
        while True:
            page = api.get(f"/sessions/{session_id}/events", after=transcript.seq, limit=1000)
            transcript.events(page["events"])
            if not page["more"]:
                break
        waiting = [one for one in detail["prompts"] if one["status"] == "queued"]
        for one in detail["open_parts"]:
            out().print(f"\n{clean(one['text'])} …", style="dim italic" if one["kind"] == "reasoning" else "")
        _say_what_runs(detail, transcript)
        for one in waiting:
            out().print(f"queued  {one['id']}  {one_line(one['text'])[:100]}", style="dim")
        summarise(api, session_id)


def _say_what_runs(detail: dict[str, Any], transcript: Transcript) -> None:
    """What a session is doing at this moment, in a line for each."""
    said = {
        "queued": "It waits for its turn to begin.",
        "starting": "Its sandbox starts.",
        "running": "The agent works.",
        "waiting": "The agent waits for an answer.",
    }.get(detail["activity"])
    if said is None:
        return
    out().print(f"\n{said}", style="cyan")
    if detail["activity"] == "running":
        for call in transcript.running.calls.values():
            out().print(f"… {call.words} · {call.seconds:.0f} s", style="cyan")


@sessions.command()
def attach(
    session: SessionArg,
    from_start: Annotated[
        bool, typer.Option(help="Print everything, not only what came since the last time.")
    ] = False,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End as soon as nothing runs or waits in the session.")
    ] = False,
    as_json: JsonFlag = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Follow a session live, from where one left it. Ctrl-C leaves; the work goes on. An archived session is shown to its end.

    With --until-idle the exit code is 0 when the last turn was completed, or there was none, and 1 when it failed or was stopped.
    """
    with client() as api:
        session_id = find(api, session)
        detail = api.get(f"/sessions/{session_id}")
        after = 0 if from_start else cursors.read(settings().data_dir).get(session_id, 0)
        if after and not as_json:
            error_console().print(
                f"From event {after} on, where you left it; --from-start shows all.", style="dim"
            )
        archived = detail["status"] == "archived"
        note = ""
        if archived and not as_json:
            note = f"This session is archived: nothing runs in it. Bring it back: {program()} sessions restore {session_id}"
        elif not (as_json or until_idle) and detail["activity"] == "idle":
            note = (
                f"Nothing runs in this session now: what comes next is shown when somebody prompts it ({program()} sessions prompt "
                f'{session_id} "TEXT"). Ctrl-C leaves.'
            )
        known = detail["prompts"] if after else []
        quiet = Quiet(api, session_id) if until_idle or archived else None
        follow_session(
            api,
            session_id,
            after=after,
            until=quiet,
            as_json=as_json,
            verbose=verbose,
            prompts=known,
            note=note,
        )
        if until_idle and quiet is not None and quiet.last_outcome not in (None, "completed"):
            raise typer.Exit(1)


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
        detail = api.get(f"/sessions/{session_id}")
        body = {"text": text, "model": model, "effort": effort, "client_request_id": uuid.uuid4().hex}
        queued = api.post(f"/sessions/{session_id}/prompts", body)
        _follow_prompt(api, detail, queued, follow, as_json)


def _follow_prompt(
    api: Client, before: dict[str, Any], queued: dict[str, Any], follow: bool, as_json: bool
) -> None:
    """Follow a prompt that was just queued and end as it does, or only say which it is."""
    if not follow:
        if as_json:
            out().print_json(json.dumps(queued))
        else:
            out().print(f"{queued['status']}: {queued['id']}")
        return
    transcript = follow_session(
        api,
        before["id"],
        after=before["head"],
        until=ended(queued["id"]),
        as_json=as_json,
        prompts=before["prompts"],
    )
    exit_as(transcript, queued["id"])


@sessions.command()
def stop(session: SessionArg) -> None:
    """Stop the turn that is running."""
    with client() as api:
        session_id = find(api, session)
        api.post(f"/sessions/{session_id}/stop")
    out().print(
        f"Told to stop; that takes five seconds at most. See how it ended: {program()} sessions show {session_id[-8:]}"
    )


@sessions.command()
def cancel(
    session: SessionArg, prompt_id: Annotated[str, typer.Argument(help="Id of the queued prompt.")]
) -> None:
    """Take a queued prompt back."""
    with client() as api:
        session_id = find(api, session)
        known = an_id(
            prompt_id, "id of a prompt", f"See what is queued: {program()} sessions show {session_id}"
        )
        api.call("DELETE", f"/sessions/{session_id}/prompts/{known}")
    out().print("Taken back.")


@sessions.command()
def retry(
    session: SessionArg,
    prompt_id: Annotated[
        str | None,
        typer.Argument(
            help="Id of the prompt, or its last characters.",
            show_default="the newest that failed or was stopped",
        ),
    ] = None,
    follow: FollowOption = True,
    as_json: JsonFlag = False,
) -> None:
    """Run a prompt again that failed or was stopped."""
    with client() as api:
        session_id = find(api, session)
        detail = api.get(f"/sessions/{session_id}")
        found = to_retry(api, session_id, prompt_id)
        queued = api.post(f"/sessions/{session_id}/prompts/{found}/retry")
        _follow_prompt(api, detail, queued, follow, as_json)


@sessions.command()
def answer(
    session: SessionArg,
    question_id: Annotated[str, typer.Argument(help="Id of the question.")],
    text: Annotated[list[str], typer.Argument(help="An answer for each of its questions.")],
) -> None:
    """Answer what the agent asked."""
    with client() as api:
        session_id = find(api, session)
        known = an_id(
            question_id, "id of a question", f"See what was asked: {program()} sessions show {session_id}"
        )
        api.post(f"/sessions/{session_id}/questions/{known}", {"answers": [[one] for one in text]})
    out().print("Answered.")


@sessions.command()
def archive(session: SessionArg) -> None:
    """Put a session away; its sandbox is stopped, its files and transcript are kept."""
    with client() as api:
        session_id = find(api, session)
        api.post(f"/sessions/{session_id}/archive")
    out().print(f"Archived. Bring it back with: {program()} sessions restore {session_id[-8:]}")


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
            ask(f"Delete “{detail['title'] or session_id}” with its files and transcript?")
        api.call("DELETE", f"/sessions/{session_id}")
    out().print("Deleted.")
