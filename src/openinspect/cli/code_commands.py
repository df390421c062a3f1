"""``openinspect repos …``, ``models`` and ``tokens …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from openinspect.problems import Invalid

from .client import CLONE_SECONDS, Client
from .console import age, ask, client, error_console, out
from .session_commands import JsonFlag, repository
from .transcript import clean

repos = typer.Typer(
    help="Repositories that sessions can work on, and their pull requests.", no_args_is_help=True
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
            with error_console().status(f"Cloning {clean(source)} …"):
                found = api.post("/repositories", {"url": source, "name": name}, seconds=CLONE_SECONDS)
        else:
            found = api.post(
                "/repositories", {"path": str(Path(source).expanduser().absolute()), "name": name}
            )
    out().print(
        f"{found['name']}  {found['location']}  (default branch: {found['default_branch'] or 'none yet, it is empty'})",
        markup=False,
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
        out().print("No repositories yet. Add one: openinspect repos add PATH")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "default branch", "place"):
        table.add_column(column)
    for one in found:
        table.add_row(one["name"], one["default_branch"] or "—", one["location"])
    out().print(table)


@repos.command()
def remove(
    name: Annotated[str, typer.Argument(help="Its name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y")] = False,
) -> None:
    """Forget a repository. A folder of yours stays as it is; a clone that the server made is deleted."""
    with client() as api:
        repository_id = repository(api, name)
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
        found = api.get(f"/repositories/{repository(api, name)}/pull-requests")
    if as_json:
        out().print_json(json.dumps(found))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("number", "state", "title", "branch", "when", "id"):
        table.add_column(column)
    for one in found:
        table.add_row(
            f"#{one['number']}",
            one["state"],
            clean(one["title"]),
            f"{one['head']} → {one['base']}",
            age(one["updated_at"]),
            one["id"],
        )
    out().print(table)


PullRequest = Annotated[
    str, typer.Argument(help="The pull request's id, as `repos pulls` lists it.", show_default=False)
]


@repos.command("diff")
def diff(pull_request: PullRequest) -> None:
    """What a pull request changes."""
    with client() as api:
        print_diff(api, pull_request)


def print_diff(api: Client, pull_request: str) -> None:
    found = api.get(f"/pull-requests/{pull_request}/diff")
    for file in found["files"]:
        if file["patch"]:
            for line in file["patch"].splitlines():
                style = (
                    {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
                    if not line.startswith(("+++", "---"))
                    else "bold"
                )
                out().print(clean(line), style=style, markup=False, soft_wrap=True)
        else:
            out().print(f"{file['status']} {clean(file['path'])} ({file['state']})", markup=False)


@repos.command()
def merge(
    pull_request: PullRequest,
    method: Annotated[str, typer.Option(help="merge, squash or ff (fast-forward only).")] = "merge",
) -> None:
    """Merge a pull request of the local code host."""
    if method not in ("merge", "squash", "ff"):
        raise Invalid("method_unknown", f"There is no method “{method}”.", "Choose merge, squash or ff.")
    with client() as api:
        head = api.get(f"/pull-requests/{pull_request}")["head_sha"]
        done = api.post(f"/pull-requests/{pull_request}/merge", {"method": method, "expected_head": head})
    out().print(
        f"Merged #{done['number']} into {done['base']} as {(done['merge_sha'] or '')[:10]}.", markup=False
    )


@repos.command("close")
def close(pull_request: PullRequest) -> None:
    """Close a pull request without merging it."""
    with client() as api:
        done = api.post(f"/pull-requests/{pull_request}/close")
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
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("model", "efforts", "default", ""):
        table.add_column(column)
    for one in shown:
        note = "scripted, not a real model" if one["scripted"] else "" if one["available"] else one["remedy"]
        table.add_row(one["id"], " ".join(one["efforts"]) or "—", one["default_effort"] or "—", note)
    out().print(table)
    left_out = len(found) - len(shown)
    if left_out:
        out().print(f"[dim]{left_out} more can't be used now; --all says why.[/dim]")


@tokens.command("list")
def list_tokens(as_json: JsonFlag = False) -> None:
    """Your API tokens, and when each was last used."""
    with client() as api:
        found = api.get("/tokens")
    if as_json:
        out().print_json(json.dumps(found))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "name", "scopes", "last used", "state"):
        table.add_column(column)
    for one in found:
        used = age(one["last_used_at"]) if one["last_used_at"] else "never"
        table.add_row(
            one["id"],
            clean(one["name"]),
            " ".join(one["scopes"]),
            used,
            "revoked" if one["revoked_at"] else "works",
        )
    out().print(table)


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A permission. Several times for several.", show_default="all that you have"),
    ] = None,
    days: Annotated[
        int | None, typer.Option(help="How many days it works.", show_default="until revoked")
    ] = None,
) -> None:
    """Make a token. It is shown this once."""
    with client() as api:
        made = api.post("/tokens", {"name": name, "scopes": scope or ["*"], "expires_in_days": days})
    out().print(made["token"], markup=False)
    error_console().print("[dim]It is shown this once. Use it as: Authorization: Bearer …[/dim]")


@tokens.command()
def revoke(token_id: Annotated[str, typer.Argument(help="The token's id.")]) -> None:
    """End a token at once."""
    with client() as api:
        api.call("DELETE", f"/tokens/{token_id}")
    out().print("Revoked.")
