"""``openinspect repos …``, ``models`` and ``tokens …``."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from openinspect.problems import Conflict, Invalid

from . import listing
from .client import CLONE_SECONDS, Client, an_id
from .console import age, ask, client, error_console, out
from .listing import Column
from .references import KEY_REMEDY, known_repository
from .session_commands import JsonFlag
from .text import clean, one_line, program

repos = typer.Typer(
    help="Repositories that sessions can work on, and their pull requests.", no_args_is_help=True
)
_NO_MODEL_REMEDY = (
    "Set ANTHROPIC_API_KEY or OPENAI_API_KEY where the server runs (or OPENINSPECT_SCRIPTED_MODEL=playground, to try it with a scripted model), "
    "and start it again."
)
tokens = typer.Typer(help="API tokens of your own.", no_args_is_help=True)


@repos.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of a repository on the server's machine, or an address to clone.", show_default=False
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
) -> None:
    """Make a repository known. A folder stays where it is: the work ends up in it as branches."""
    with client() as api:
        if "://" in source or source.startswith("git@"):
            with error_console().status(Text(f"Cloning {one_line(source)} …")):
                found = api.post("/repositories", {"url": source, "name": name}, seconds=CLONE_SECONDS)
        else:
            found = api.post(
                "/repositories", {"path": str(Path(source).expanduser().absolute()), "name": name}
            )
    if name is not None and found["name"] != name:
        known = one_line(found["name"])
        raise Conflict(
            "known_by_another_name",
            f"This repository is known already, as {known}; it was not renamed to {one_line(name)}.",
            f"Use it as {known}, or forget it and then add it again: {program()} repos remove {known}",
        )
    out().print(
        f"{one_line(found['name'])}  {one_line(found['location'])}  "
        f"(default branch: {one_line(found['default_branch'] or 'none yet, it is empty')})"
    )


@repos.command("list")
def list_repositories(as_json: JsonFlag = False) -> None:
    """The repositories that are known."""
    with client() as api:
        found = api.get("/repositories")
    if as_json:
        out().print_json(json.dumps(found))
        return
    if not found:
        out().print(f"No repositories yet. Add one: {program()} repos add PATH")
        return
    listing.show(
        out(),
        (Column("name"), Column("default branch", drop=1), Column("place")),
        [(one["name"], one["default_branch"] or "—", one["location"]) for one in found],
    )


@repos.command()
def remove(
    name: Annotated[str, typer.Argument(help="Its name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget a repository. A folder of yours stays as it is; a clone that the server made is deleted."""
    with client() as api:
        repository_id = known_repository(api, name)["id"]
        if not yes:
            ask(f"Forget {name}?")
        api.call("DELETE", f"/repositories/{repository_id}")
    out().print("Forgotten.")


@repos.command("pulls")
def pull_requests(
    name: Annotated[str, typer.Argument(help="The repository's name.")], as_json: JsonFlag = False
) -> None:
    """The pull requests of a repository."""
    with client() as api:
        known = known_repository(api, name)
        found = api.get(f"/repositories/{known['id']}/pull-requests")
    if as_json:
        out().print_json(json.dumps(found))
        return
    if not found:
        out().print(f"{one_line(known['name'])} has no pull requests yet.")
        return
    listing.show(
        out(),
        (
            Column("number"),
            Column("state"),
            Column("title", least=12, drop=1),
            Column("branch", least=20, drop=2),
            Column("when", drop=3),
            Column("id"),
        ),
        [
            (
                f"#{one['number']}",
                one["state"],
                one["title"],
                f"{one['head']} → {one['base']}",
                age(one["updated_at"]),
                one["id"],
            )
            for one in found
        ],
    )


PullRequest = Annotated[
    str,
    typer.Argument(
        help="The pull request: REPOSITORY#NUMBER, or its id as `repos pulls` lists it, or the id's last characters.",
        show_default=False,
    ),
]


def find_pull_request(api: Client, reference: str) -> str:
    """A pull request's id by REPOSITORY#NUMBER (or #NUMBER, where that is the only one), by its id, or by how that ends."""
    if re.fullmatch(r"pr_[A-Za-z0-9]{20,}", reference):
        return reference
    name, mark, number = reference.rpartition("#")
    places = [known_repository(api, name)] if mark and name else api.get("/repositories")
    known = [one for place in places for one in api.get(f"/repositories/{place['id']}/pull-requests")]
    if mark:
        found = [one for one in known if str(one["number"]) == number]
    else:
        found = [one for one in known if reference and one["id"].endswith(reference)]
    if len(found) == 1:
        return found[0]["id"]
    if found:
        several = ", ".join(f"{one['repository']}#{one['number']}" for one in found[:10])
        raise Invalid(
            "pull_request_unclear", f"“{reference}” may be each of: {several}.", "Name one of them."
        )
    raise Invalid(
        "pull_request_unknown",
        f"There is no pull request “{reference}”.",
        f"Name it as REPOSITORY#NUMBER; `{program()} repos pulls REPOSITORY` lists those of a repository.",
    )


@repos.command("diff")
def diff(pull_request: PullRequest) -> None:
    """What a pull request changes."""
    with client() as api:
        print_diff(api, find_pull_request(api, pull_request))


def print_diff(api: Client, pull_request_id: str) -> None:
    found = api.get(f"/pull-requests/{pull_request_id}/diff")
    for file in found["files"]:
        if file["patch"]:
            for line in file["patch"].splitlines():
                style = (
                    {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
                    if not line.startswith(("+++", "---"))
                    else "bold"
                )
                out().print(clean(line), style=style)
        else:
            out().print(f"{file['status']} {one_line(file['path'])} ({file['state']})")


@repos.command()
def merge(
    pull_request: PullRequest,
    method: Annotated[str, typer.Option(help="merge, squash or ff (fast-forward only).")] = "merge",
) -> None:
    """Merge a pull request of the local code host."""
    if method not in ("merge", "squash", "ff"):
        raise Invalid("method_unknown", f"There is no method “{method}”.", "Choose merge, squash or ff.")
    with client() as api:
        found = find_pull_request(api, pull_request)
        head = api.get(f"/pull-requests/{found}")["head_sha"]
        done = api.post(f"/pull-requests/{found}/merge", {"method": method, "expected_head": head})
    out().print(
        f"Merged #{done['number']} into {one_line(done['base'])} as {(done['merge_sha'] or '')[:10]}."
    )


@repos.command("close")
def close(pull_request: PullRequest) -> None:
    """Close a pull request without merging it."""
    with client() as api:
        done = api.post(f"/pull-requests/{find_pull_request(api, pull_request)}/close")
    out().print(f"Closed #{done['number']}.")


def models(
    everything: Annotated[bool, typer.Option("--all", help="Also those that can't be used now.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """The models that can be used, with their efforts."""
    with client() as api:
        found = api.get("/models")
    if as_json:
        out().print_json(json.dumps(found))
        return
    shown = [one for one in found if everything or one["available"]]
    if not any(one["available"] for one in found):
        out().print(f"No model can be used now: no provider's key is set. {_NO_MODEL_REMEDY}", style="yellow")
        if not everything:
            out().print("--all lists them, with what each lacks.", style="dim")
            return
        out().print()
    scripted = [one for one in shown if one["scripted"]]
    if scripted:
        which = "all of these" if len(scripted) == len(shown) else "those marked *"
        out().print(f"A scripted model answers for {which}, not a real one. {KEY_REMEDY}\n", style="yellow")
    marked = 0 < len(scripted) < len(shown)
    columns = [Column("model"), Column("efforts", drop=2), Column("default", drop=1)]
    rows = [
        [
            one["id"] + (" *" if marked and one["scripted"] else ""),
            " ".join(one["efforts"]) or "—",
            one["default_effort"] or "—",
            "" if one["available"] else one["remedy"],
        ]
        for one in shown
    ]
    if any(row[3] for row in rows):
        columns.append(Column("what it lacks", least=20, drop=3))
    listing.show(out(), columns, [row[: len(columns)] for row in rows])
    left_out = len(found) - len(shown)
    if left_out:
        out().print(f"{left_out} more can't be used now; --all says why.", style="dim")


@tokens.command("list")
def list_tokens(
    everything: Annotated[bool, typer.Option("--all", help="Also those that were revoked.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Your API tokens, and when each was last used. As JSON always all of them."""
    with client() as api:
        found = api.get("/tokens")
    if as_json:
        out().print_json(json.dumps(found))
        return
    if not everything:
        found = [one for one in found if not one["revoked_at"]]
    if not found:
        out().print(f"No tokens. Make one: {program()} tokens create NAME")
        return
    listing.show(
        out(),
        (
            Column("id"),
            Column("name"),
            Column("scopes", least=10, drop=3),
            Column("last used", drop=2),
            Column("works until"),
        ),
        [
            (
                one["id"],
                one["name"],
                " ".join(one["scopes"]),
                age(one["last_used_at"]) if one["last_used_at"] else "never",
                _until(one),
            )
            for one in found
        ],
    )


def _until(token: dict[str, Any]) -> str:
    """When a token ends, or that it has."""
    if token["revoked_at"]:
        return "revoked"
    if token["expires_at"] is None:
        return "you revoke it"
    ends = datetime.fromisoformat(token["expires_at"])
    return f"{ends:%Y-%m-%d}" if ends > datetime.now(UTC) else f"expired {ends:%Y-%m-%d}"


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A permission. Several times for several.", show_default="all that you have"),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="How many days it works.", show_default="until revoked"),
    ] = None,
) -> None:
    """Make a token. It is shown this once."""
    with client() as api:
        made = api.post("/tokens", {"name": name, "scopes": scope or ["*"], "expires_in_days": days})
    out().print(made["token"])
    error_console().print("It is shown this once. Use it as: Authorization: Bearer …", style="dim")


@tokens.command()
def revoke(token_id: Annotated[str, typer.Argument(help="The token's id.")]) -> None:
    """End a token at once."""
    with client() as api:
        known = an_id(token_id, "id of a token", f"List them: {program()} tokens list")
        api.call("DELETE", f"/tokens/{known}")
    out().print("Revoked.")
