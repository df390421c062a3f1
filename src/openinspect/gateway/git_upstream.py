"""Git of another code host: a streaming reverse proxy that adds the credential here.

Of the caller's headers only what the protocol needs goes on; its credential never does. Redirects are not followed, for they would
carry ours elsewhere. The advertisement is cut down to branches and tags. What the code host answers to a push passes through and is read on its way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property

import httpx2

from ..forges.contract import GitBackend, UpstreamGitBackend
from ..forges.errors import ForgeUnavailable, RepositoryNotFound
from .git_exchange import BodyRefused, Exchange
from .git_local import Told
from .git_pkt import BrokenAnswer, RefFilter, ReportReader
from .git_policy import PushRequest

_CONNECT_SECONDS = 15.0
_AGENT = "git/2.39 (open-inspect)"  # some hosts serve git only to what calls itself git


class UpstreamService:
    def __init__(self, idle_seconds: float) -> None:
        self._timeout = httpx2.Timeout(idle_seconds, connect=_CONNECT_SECONDS, pool=_CONNECT_SECONDS)

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        # made when it is first needed: reading the system's certificates takes a tenth of a second
        limits = httpx2.Limits(max_connections=64, max_keepalive_connections=8)
        return httpx2.AsyncClient(timeout=self._timeout, limits=limits, follow_redirects=False)

    async def aclose(self) -> None:
        if "_client" in self.__dict__:
            await self._client.aclose()

    async def advertise(self, exchange: Exchange, backend: GitBackend, service: str, version: str) -> None:
        await exchange.discard_body(most_bytes=65_536)

        async def work() -> None:
            async with self._ask(backend, "GET", f"info/refs?service={service}", version) as answer:
                refs = RefFilter()
                await exchange.start(200, f"application/x-{service}-advertisement")
                async for piece in answer.aiter_raw():
                    await exchange.write(refs.feed(piece))
            await exchange.end()

        await exchange.while_client_is_there(work())

    async def fetch(self, exchange: Exchange, backend: GitBackend, body: bytes, version: str) -> None:
        refs = RefFilter() if body[4:].startswith(b"command=ls-refs") else None

        async def work() -> None:
            async with self._ask(
                backend, "POST", "git-upload-pack", version, content=body, service="git-upload-pack"
            ) as answer:
                await exchange.start(200, "application/x-git-upload-pack-result")
                async for piece in answer.aiter_raw():
                    await exchange.write(refs.feed(piece) if refs else piece)
            await exchange.end()

        await exchange.while_client_is_there(work())

    async def push(
        self,
        exchange: Exchange,
        backend: GitBackend,
        push: PushRequest,
        pack: AsyncIterator[bytes],
        told: Told,
    ) -> None:
        async def content() -> AsyncIterator[bytes]:
            yield push.encode()
            async for piece in pack:
                yield piece

        report = ReportReader(b"side-band-64k" in push.capabilities)
        try:
            async with self._ask(
                backend, "POST", "git-receive-pack", "", content=content(), service="git-receive-pack"
            ) as answer:

                async def work() -> None:
                    await exchange.start(200, "application/x-git-receive-pack-result")
                    async for piece in answer.aiter_raw():
                        report.feed(piece)
                        await exchange.write(piece)

                await exchange.while_client_is_there(work())
        finally:
            for command in push.commands:
                if command.ref in report.accepted and command.old != command.new:
                    await told(command.ref.decode("utf-8", "surrogateescape"), command.old, command.new)
        await exchange.end()

    @asynccontextmanager
    async def _ask(
        self,
        backend: GitBackend,
        method: str,
        path: str,
        version: str,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        service: str = "",
    ) -> AsyncIterator[httpx2.Response]:
        """The answer with status 200. Raises ``ForgeUnavailable``, ``RepositoryNotFound``, or ``BodyRefused`` for the host's own refusal."""
        assert isinstance(backend, UpstreamGitBackend)
        headers = {"user-agent": _AGENT, "accept-encoding": "identity", "accept": "*/*"}
        if service:
            headers["content-type"] = f"application/x-{service}-request"
            headers["accept"] = f"application/x-{service}-result"
        if version:
            headers["git-protocol"] = version
        if backend.authorization is not None:
            headers["authorization"] = backend.authorization.get_secret_value()
        try:
            async with self._client.stream(
                method, f"{backend.url.rstrip('/')}/{path}", headers=headers, content=content
            ) as answer:
                await _refuse(answer)
                yield answer
        except httpx2.TimeoutException as error:
            raise ForgeUnavailable(
                "The code host did not answer in time", "Try again in a minute."
            ) from error
        except (httpx2.HTTPError, BrokenAnswer) as error:
            raise ForgeUnavailable(
                f"The connection to the code host broke ({type(error).__name__})", "Try again in a minute."
            ) from error


async def _refuse(answer: httpx2.Response) -> None:
    status = answer.status_code
    if status == 200:
        return
    if status == 404:
        raise RepositoryNotFound(
            "The code host does not know this repository, or does not show it to us",
            "Check its address, and that Open-Inspect has been given access to it.",
        )
    if status == 401:
        raise ForgeUnavailable(
            "The code host did not accept Open-Inspect's credential", "An administrator has to renew it."
        )
    if status == 403:
        raise BodyRefused(403, "The code host refused this: Open-Inspect has no right to do it there.")
    if 300 <= status < 400:
        raise ForgeUnavailable(
            "The code host says that the repository has moved", "Register it by its new address."
        )
    raise ForgeUnavailable(f"The code host answered with status {status}", "Try again in a minute.")
