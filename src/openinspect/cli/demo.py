"""``openinspect demo``: the main job of the product, from nothing to a pull request, on a small real repository with a bug.

With a provider's key in the environment that provider's model does the work; without one the scripted model does, and it is said. Whatever
fails ends the demo with what failed, why and what to do.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime

from openinspect.problems import Unavailable
from openinspect.testing.sample_repository import create_sample_repository

from .client import Client, read_record
from .code_commands import print_diff
from .console import out, settings
from .following import ended, follow_session, link
from .server_commands import ONCE, down, signin_link, start_detached
from .text import one_line, program

PROMPT = (
    "The test suite of this repository fails. Find out why, mend the code (not the test), run the tests again, commit, push, "
    "and open a pull request that says what was wrong."
)
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")


def run_demo(*, keep: bool) -> None:
    began = time.monotonic()
    chosen = settings()
    keyed = [key for key in KEYS if os.environ.get(key, "").strip()]
    record = read_record(chosen)
    found_running = record is not None
    if record is None:
        _step("Starting the server")
        record = start_detached(environment={} if keyed else {"OPENINSPECT_SCRIPTED_MODEL": "demo"})
    else:
        _step(f"A server runs already, at {record.url}")
    api = Client(record.url, record.token, chosen)
    server = api.get("/me")["server"]
    _check_model(api, server, keyed)

    folder = chosen.data_dir / "demo" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    create_sample_repository(folder)
    _step(f"A small repository with a failing test: {folder}")
    repository = api.post("/repositories", {"path": str(folder), "name": f"sample-{folder.name}"})
    session = api.post(
        "/sessions",
        {
            "targets": [{"repository": repository["id"]}],
            "prompt": {"text": PROMPT},
            "client_request_id": uuid.uuid4().hex,
        },
    )
    _step(f"One prompt, in a sandbox of its own: {link(api, session['id'])}")
    prompt_id = session["prompts"][0]["id"]
    transcript = follow_session(api, session["id"], until=ended(prompt_id))
    finished = transcript.finished.get(prompt_id)
    if finished is None:
        raise Unavailable(
            "demo_taken_back", "The prompt was taken back before it ran.", "Run it again: make demo"
        )
    if finished["status"] != "completed":
        raise Unavailable(
            "demo_failed",
            f"The turn {finished['status']}: {finished['reason'] or 'it gave no reason'}",
            finished["remedy"]
            or "Look at the transcript above; `openinspect doctor` says what this machine lacks.",
        )
    requests = api.get(f"/sessions/{session['id']}")["pull_requests"]
    if not requests:
        raise Unavailable(
            "demo_no_pull_request",
            "The agent finished, but opened no pull request.",
            (
                "The scripted model of the server that runs already may have another script: `make stop`, then `make demo`."
                if found_running and server["scripted_model"]
                else "Read in the transcript above what it said. With a real model, another try may help: `make demo`."
            ),
        )
    request = requests[-1]
    out().rule(style="dim")
    print_diff(api, request["id"])
    out().rule(style="dim")
    console = out()
    console.print(f"\nPull request #{request['number']}: {one_line(request['title'])}", style="bold")
    console.print(f"  {request['head']} → {request['base']} in {folder}")
    console.print(f"  merge it:  {program()} repos merge {request['id']}")
    if server["scripted_model"]:
        console.print(
            "  (answered by the scripted model: set ANTHROPIC_API_KEY or OPENAI_API_KEY for a real one)",
            style="yellow",
        )
    console.print(
        f"\nFrom the start of this demo to a pull request in {time.monotonic() - began:.1f} s"
        " (the set-up of the checkout, which happens once, is not in it).",
        style="bold green",
    )
    if keep:
        page = f"/sessions/{session['id']}"
        console.print(f"\nThe session in the browser: {signin_link(api, page)}")
        console.print(
            f"  This link signs you in; it {ONCE}. Another: `{program()} signin`, then {link(api, session['id'])}"
        )
        console.print("  The server keeps running; `make stop` ends it.\n")
    else:
        down()


def _step(text: str) -> None:
    out().print(f"▸ {text}", style="bold")


def _check_model(api: Client, server: dict[str, object], keyed: list[str]) -> None:
    if server["scripted_model"]:
        if keyed:
            raise Unavailable(
                "demo_server_scripted",
                f"{keyed[0]} is set, but the server that runs was started without it.",
                "End it with `make stop`, then run the demo again.",
            )
        out().print(
            "▸ No provider's key is set where the server runs: a scripted model answers. It reads what the tools really say, but it is no language model.",
            style="yellow",
        )
    elif not any(model["available"] for model in api.get("/models")):
        raise Unavailable(
            "demo_no_model",
            "The server that runs has no provider's key.",
            "End it with `make stop`, then run the demo again.",
        )
