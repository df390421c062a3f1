"""Whatever is sent to the API, it never answers with a fault of its own (5xx, but for a model that can't be used: 503 is an honest answer)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from openinspect.api.app import create_app
from openinspect.testing.running_server import running_server

EXAMPLES = 20
"""For each operation, of each kind: what the schema allows, and what it forbids."""
_STREAM = "/api/sessions/{session_id}/stream"
"""Goes on for ever; it has tests of its own."""

OPERATIONS = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(create_app().openapi()).get_all_operations()
    if isinstance(found, Ok) and found.ok().path != _STREAM
}
RUNS = [
    (label, mode)
    for label, operation in sorted(OPERATIONS.items())
    for mode in GenerationMode
    if mode.is_positive or operation.query or operation.body
]
"""Where any text is an id, and there is nothing else to give, nothing can be given wrong."""


@pytest.fixture(scope="module")
def target(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, list[str]]]:
    """A running server in a thread of its own: its address, a token, and ids that exist."""
    ready, ended = threading.Event(), threading.Event()
    found: list[tuple[str, str, list[str]]] = []

    async def serve(folder: Path) -> None:
        async with running_server(database_url, folder) as server:
            session = await server.session("say something")
            found.append((server.url, server.token, [session["id"], session["prompts"][0]["id"]]))
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve(tmp_path_factory.mktemp("fuzz"))))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0]
    finally:
        ended.set()
        thread.join(30)


def test_every_operation_has_its_own_run() -> None:
    assert {label for label, _ in RUNS} == set(OPERATIONS)
    assert len(OPERATIONS) > 30


@pytest.mark.parametrize(("label", "mode"), RUNS, ids=[f"{label} {mode.value}" for label, mode in RUNS])
@pytest.mark.timeout(180)
def test_no_request_makes_the_server_fail(
    label: str, mode: GenerationMode, target: tuple[str, str, list[str]]
) -> None:
    url, token, ids = target
    known: dict[str, str] = dict(zip(("session_id", "prompt_id"), ids, strict=True))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        derandomize=True,
    )
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode), real=booleans())
    def ask(case: schemathesis.Case, real: bool) -> None:
        if real:
            case.path_parameters = {
                name: known.get(name, value) for name, value in (case.path_parameters or {}).items()
            }
        answer = case.call(
            base_url=url, headers={"Authorization": f"Bearer {token}", "X-OpenInspect": "1"}, timeout=30
        )
        assert answer.status_code < 500 or answer.status_code in (502, 503), (
            f"{answer.status_code}: {answer.text}"
        )
        assert "Traceback" not in answer.text

    ask()
