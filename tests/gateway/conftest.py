"""Doors on real ports.

``serve_app(app)``                 an ASGI app on a port of the loopback; an async context manager that gives its address
``serve_llm(settings, limits)``    the models' door, with a real database behind it and grants by token; gives a ``Served``
``serve_llm_on(engine, …)``        the same, for fixtures that last longer than a test
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from openinspect.db.tables import model_calls, prompts, sessions
from openinspect.gateway.llm import LlmDoor
from openinspect.gateway.llm_exchange import Limits, LlmGrant
from openinspect.models import accounts
from openinspect.protocol.events import ModelCalled
from openinspect.protocol.ids import new_id
from openinspect.settings import Settings
from openinspect.testing.application import listen, uvicorn_for

MODELS = frozenset(
    {"anthropic/claude-sonnet-4-6", "anthropic/claude-haiku-4-5", "openai/gpt-5.4", "opencode/glm-5"}
)


class Served:
    def __init__(self, engine: AsyncEngine, settings: Settings, limits: Limits | None) -> None:
        self.engine = engine
        self.grants: dict[str, LlmGrant] = {}
        self.events: list[ModelCalled] = []
        self.door = LlmDoor(
            settings, authorise=self._authorise, reserve=self._reserve, settle=self._settle, limits=limits
        )
        self.url = ""
        self.client = httpx2.AsyncClient(trust_env=False, timeout=20)

    async def new_session(
        self, *, running: bool = True, budget: str | None = None, models: frozenset[str] = MODELS
    ) -> str:
        """A session with a prompt; returns its token, which is also how to find its grant."""
        session_id, prompt_id = new_id("ses"), new_id("prm")
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(sessions).values(id=session_id, model="anthropic/claude-sonnet-4-6")
            )
            await connection.execute(
                insert(prompts).values(
                    id=prompt_id,
                    session_id=session_id,
                    position=1,
                    text="x",
                    status="running",
                    fingerprint="x",
                )
            )
        token = f"oi_sbx_{session_id}"
        self.grants[token] = LlmGrant(
            session_id, prompt_id if running else None, models, None if budget is None else Decimal(budget)
        )
        return token

    async def ask(self, token: str, path: str, body: Any, **headers: str) -> httpx2.Response:
        return await self.client.post(
            f"{self.url}/llm/{path}", json=body, headers={"authorization": f"Bearer {token}"} | headers
        )

    async def calls(self, token: str) -> list[Any]:
        async with self.engine.connect() as connection:
            found = await connection.execute(
                select(model_calls)
                .where(model_calls.c.session_id == self.grants[token].session_id)
                .order_by(model_calls.c.id)
            )
            return list(found)

    async def settled(self, token: str, count: int = 1) -> list[Any]:
        """The session's calls, once that many have ended."""
        async with asyncio.timeout(15):
            while True:
                calls = await self.calls(token)
                if len([call for call in calls if call.status != "reserved"]) >= count:
                    return calls
                await asyncio.sleep(0.01)

    async def _authorise(self, token: str) -> LlmGrant | None:
        return self.grants.get(token)

    async def _reserve(self, reservation: accounts.Reservation) -> str:
        async with self.engine.begin() as connection:
            return await accounts.reserve(connection, reservation)

    async def _settle(self, call_id: str, outcome: accounts.CallOutcome) -> None:
        async with self.engine.begin() as connection:
            settled = await accounts.settle(connection, call_id, outcome)
        if settled is not None:
            self.events.append(settled.event)


@asynccontextmanager
async def on_a_port(app: ASGIApp) -> AsyncIterator[str]:
    bound = listen(0)
    server = uvicorn_for(app)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await serving


@asynccontextmanager
async def served(
    engine: AsyncEngine, settings: Settings, limits: Limits | None = None
) -> AsyncIterator[Served]:
    one = Served(engine, settings, limits)
    async with on_a_port(Starlette(routes=[Mount("/llm", one.door)])) as url:
        one.url = url
        try:
            yield one
        finally:
            await one.client.aclose()
            await one.door.aclose()


@pytest.fixture(scope="session")
def serve_app() -> Callable[[ASGIApp], AbstractAsyncContextManager[str]]:
    return on_a_port


@pytest.fixture(scope="session")
def serve_llm_on() -> Callable[..., AbstractAsyncContextManager[Served]]:
    return served


@pytest.fixture
def serve_llm(engine: AsyncEngine) -> Callable[..., AbstractAsyncContextManager[Served]]:
    return lambda settings, limits=None: served(engine, settings, limits)
