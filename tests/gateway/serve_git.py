"""A git door in a process of its own, for the tests that measure it: ``serve_git.py REPOSITORY BRANCH``.

Prints its port, and after every push the most memory that it has had, in KiB.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from openinspect.forges.contract import LocalGitBackend
from openinspect.gateway.git import GitDoor, GitGrant, RepositoryGrant
from openinspect.gateway.git_policy import Refusal


def tell(word: str) -> None:
    print(word, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


async def main(repository: Path, branch: str) -> None:
    async def authorise(_: Request) -> GitGrant:
        backend = LocalGitBackend(path=repository)
        return GitGrant("ses_test", {"repo": RepositoryGrant(backend, branch)})

    async def on_push(grant: GitGrant, directory: str, ref: str, old: str, new: str) -> None:
        tell("pushed")

    async def on_refused(grant: GitGrant, directory: str, refusals: list[Refusal]) -> None:
        tell("refused")

    door = GitDoor(authorise, on_push=on_push, on_refused=on_refused)
    app = Starlette(routes=[Mount("/git", app=door)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    tell(str(server.servers[0].sockets[0].getsockname()[1]))
    await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
