"""Two web servers in one process: the page and the API on a TCP port, the sandboxes' door on a unix socket. Both are uvicorn.

Heads and bodies of requests, connections, and at the door those of each token are bounded (``bounded_http``). ``run`` returns when ``stop``
is set: it stops accepting, gives open requests ``GRACE_SECONDS``, then closes what is left (streams are told to resume). Signals are the
caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from openinspect.bounded_http import Who, bounded_protocol, max_connections
from openinspect.gateway.grants import credentials
from openinspect.problems import Unavailable
from openinspect.protocol.frames import MAX_MESSAGE_BYTES

GRACE_SECONDS = 5
SOCKET_NAME = "gateway.sock"


def _is_news(record: logging.LogRecord) -> bool:
    """An answer that breaks off at its source breaks off here on purpose: that is told where it happens."""
    return "without completing response" not in record.getMessage()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # there are two of them: the process's signals are handled in one place


def listen_tcp(host: str, port: int) -> socket.socket:
    """Bind the web server's port. Raises ``Unavailable`` with what to do when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol has to be named: only then does asyncio set TCP_NODELAY on what it accepts
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise Unavailable(
            "port_unusable",
            f"{host}:{port} can't be listened on: {(getattr(error, 'strerror', None) or str(error)).rstrip('.')}.",
            _remedy(error),
        ) from error
    listener.setblocking(False)
    return listener


def _remedy(error: OSError | OverflowError) -> str:
    if isinstance(error, OverflowError):
        return "Choose a port between 1 and 65535 by --port or OPENINSPECT_PORT."
    if isinstance(error, PermissionError):
        return "Choose a port above 1023 by --port or OPENINSPECT_PORT, and put a proxy in front of it."
    if error.errno == errno.EADDRINUSE:
        return "End the program that has it (it may be another Open-Inspect: `openinspect down`), or choose another by OPENINSPECT_PORT."
    return "Set OPENINSPECT_HOST to an address of this machine: 127.0.0.1 for this machine alone, 0.0.0.0 for everybody who can reach it."


def listen_door(folder: Path) -> socket.socket:
    """Make the door's socket anew. Its folder is what sandboxes have mounted, so that they find the new one after a restart."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = folder / SOCKET_NAME
    path.unlink(missing_ok=True)
    # a socket's path may have 107 bytes at most; by way of the folder's descriptor it is always short
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET_NAME}")
    finally:
        os.close(descriptor)
    path.chmod(0o666)  # whoever can reach the folder may knock; the token decides
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _server(app: ASGIApp, *, trusted_proxies: list[str] | None, who: Who | None = None) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(max_connections(), who),
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES + 1024,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=trusted_proxies or None,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=75,
            backlog=1024,
        )
    )


async def run(
    page: ASGIApp,
    door: ASGIApp,
    tcp: socket.socket,
    unix: socket.socket,
    stop: asyncio.Event,
    trusted_proxies: list[str],
    ready: asyncio.Event | None = None,
) -> None:
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    servers = [
        _server(page, trusted_proxies=trusted_proxies),
        _server(door, trusted_proxies=None, who=credentials),
    ]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip(servers, (tcp, unix), strict=True)
    ]
    stopper = asyncio.create_task(stop.wait())
    try:
        while ready is not None and not ready.is_set() and not any(task.done() for task in tasks):
            if all(server.started for server in servers):
                ready.set()
            await asyncio.sleep(0.005)
        await asyncio.wait([stopper, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopper.cancel()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
