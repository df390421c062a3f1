"""The git door with the real git client: clone, fetch and push, against a folder and through to another server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import pytest
import uvicorn
from dulwich.protocol import pkt_line
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from openinspect.forges.contract import GitBackend, LocalGitBackend, UpstreamGitBackend
from openinspect.forges.local import git as local_git
from openinspect.forges.local.place import locate
from openinspect.gateway.git import GitDenied, GitDoor, GitGrant, Limits, RepositoryGrant
from openinspect.gateway.git_policy import Refusal
from openinspect.testing.repositories import SampleRepository, git

pytestmark = pytest.mark.anyio

BRANCH = "openinspect/ab12cd34"
NONE = "0" * 40
SECRET = "Bearer upstream-secret"


@dataclass
class Door:
    """A running door, what it grants, and what it told."""

    url: str = ""
    repositories: dict[str, RepositoryGrant] = field(default_factory=dict)
    credential: str | None = None
    """What the caller's Authorization header must be; None: any."""
    seen: list[str | None] = field(default_factory=list)
    pushed: list[tuple[str, str, str, str]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    crash_when_told: bool = False

    async def authorise(self, request: Request) -> GitGrant:
        self.seen.append(request.headers.get("authorization"))
        if self.credential is not None and self.seen[-1] != self.credential:
            raise GitDenied(401, "This token is not valid.")
        return GitGrant("ses_test", self.repositories)

    async def on_push(self, grant: GitGrant, directory: str, ref: str, old: str, new: str) -> None:
        self.pushed.append((directory, ref, old, new))
        if self.crash_when_told:
            raise RuntimeError("the database is gone")

    async def on_refused(self, grant: GitGrant, directory: str, refusals: list[Refusal]) -> None:
        self.refused += refusals


@asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[Door]:
    door = Door()
    app = GitDoor(door.authorise, on_push=door.on_push, on_refused=door.on_refused, limits=limits)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=[Mount("/git", app=app)]), log_level="warning", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    door.url = f"http://127.0.0.1:{listener.getsockname()[1]}/git"
    await until(lambda: server.started)
    try:
        yield door
    finally:
        server.should_exit = True
        await task
        await app.aclose()


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class World:
    door: Door
    """The one that the session's git speaks to."""
    origin: SampleRepository
    tmp: Path
    hosts: list[Door]

    @property
    def url(self) -> str:
        return f"{self.door.url}/repo"

    async def git(self, *args: str, at: Path | None = None, check: bool = True) -> str:
        return await asyncio.to_thread(lambda: git(*args, at=at, check=check))

    async def clone(self, *options: str, name: str = "work") -> SampleRepository:
        await self.git("clone", "-q", *options, self.url, str(self.tmp / name))
        return SampleRepository(self.tmp / name)

    async def push(self, work: SampleRepository, *args: str) -> str:
        return await self.git("push", *args, at=work.path, check=False)


@pytest.fixture(params=["local", "upstream"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """``upstream`` is a door that proxies to another one, which wants a credential and lets everything be pushed that git allows."""
    origin = SampleRepository.create(tmp_path / "origin", {"a.txt": "one\n", "dir/b.txt": "two\n"})
    async with serving() as door:
        backend: GitBackend = LocalGitBackend(path=origin.path)
        if request.param == "local":
            door.repositories["repo"] = RepositoryGrant(backend, BRANCH)
            yield World(door, origin, tmp_path, [door])
            return
        async with serving() as host:
            host.repositories["origin"] = RepositoryGrant(backend, BRANCH)
            host.credential = SECRET
            upstream = UpstreamGitBackend(url=f"{host.url}/origin.git", authorization=SecretStr(SECRET))
            door.repositories["repo"] = RepositoryGrant(upstream, BRANCH)
            yield World(door, origin, tmp_path, [door, host])


async def test_clone_full_shallow_and_partial(world: World) -> None:
    head = world.origin.commit("Second", {"a.txt": "one\nmore\n"})
    full = await world.clone()
    assert full.head() == head and (full.path / "dir/b.txt").read_text() == "two\n"
    shallow = await world.clone("--depth=1", name="shallow")
    assert shallow.git("rev-list", "--count", "HEAD") == "1"
    await world.git("fetch", "-q", "--unshallow", at=shallow.path)
    assert shallow.git("rev-list", "--count", "HEAD") == "2"
    partial = await world.clone("--filter=blob:none", "--no-checkout", name="partial")
    assert "?" in partial.git("rev-list", "--objects", "--missing=print", "HEAD")
    await world.git("checkout", "-q", "main", at=partial.path)
    assert (partial.path / "a.txt").read_text() == "one\nmore\n"


@pytest.mark.parametrize("version", ["0", "1", "2"])
async def test_every_protocol_version_fetches(world: World, version: str) -> None:
    world.origin.git("tag", "v1")
    world.origin.git("update-ref", "refs/openinspect/hidden", "HEAD")
    world.origin.git("update-ref", "refs/pull/1/head", "HEAD")
    asked = await world.git("-c", f"protocol.version={version}", "ls-remote", world.url)
    assert {line.split("\t")[1] for line in asked.splitlines()} == {"HEAD", "refs/heads/main", "refs/tags/v1"}
    work = await world.clone("-c", f"protocol.version={version}")
    for n in range(40):  # enough for the negotiation to be sent gzipped
        work.commit(f"local {n}")
    head = world.origin.commit("Later", {"c.txt": "3"})
    await world.git("-c", f"protocol.version={version}", "fetch", "-q", at=work.path)
    assert work.head("origin/main") == head


async def test_an_empty_repository_is_cloned_and_pushed_to(world: World) -> None:
    empty = SampleRepository.create(world.tmp / "empty")
    grant = RepositoryGrant(LocalGitBackend(path=empty.path), BRANCH)
    world.door.repositories["repo"] = grant
    work = await world.clone()
    head = work.commit("First", {"a": "1"})
    await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert empty.head(BRANCH) == head


async def test_a_push_to_the_session_s_branch_lands_and_is_told(world: World) -> None:
    work = await world.clone()
    first = work.commit("Work", {"a.txt": "changed\n"})
    said = await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert "[new branch]" in said and "error" not in said
    assert world.origin.head(BRANCH) == first
    work.git("commit", "-q", "--amend", "-m", "Reworded")
    forced = work.head()
    await world.push(work, "--force", "origin", f"HEAD:{BRANCH}", f"HEAD:{BRANCH}-second")
    assert world.origin.head(BRANCH) == world.origin.head(f"{BRANCH}-second") == forced
    await world.push(work, "origin", f":{BRANCH}")
    assert world.origin.git("branch", "--list", BRANCH) == ""
    ref = f"refs/heads/{BRANCH}"
    for door in world.hosts:
        assert [told[1:] for told in door.pushed] == [
            (ref, NONE, first),
            (ref, first, forced),
            (f"{ref}-second", NONE, forced),
            (ref, forced, NONE),
        ]
    assert (world.origin.path / "a.txt").read_text() == "one\n"


async def test_a_refused_push_says_the_rule_the_branch_and_the_way_out(world: World) -> None:
    work = await world.clone()
    work.commit("Work", {"a.txt": "changed\n"})
    before = world.origin.head("main")
    said = await world.push(work, "origin", "HEAD:main")
    assert "! [remote rejected] HEAD -> main (a session pushes only its own branches)" in said
    assert "remote: Open-Inspect refused this push; nothing of it was accepted." in said
    assert "rule own-branch-only" in said
    assert f"remote: Do this instead: git push origin HEAD:refs/heads/{BRANCH}" in said
    assert "create_pull_request" in said
    assert world.origin.head("main") == before
    assert [refusal.rule for refusal in world.door.refused] == ["own-branch-only"]
    assert world.door.pushed == []


async def test_tags_and_other_branches_are_refused(world: World) -> None:
    work = await world.clone()
    work.git("tag", "v1")
    assert "! [remote rejected] v1 -> v1 (a session pushes no tags)" in await world.push(work, "origin", "v1")
    said = await world.push(work, "origin", ":main")
    assert "! [remote rejected] main (a session deletes only its own branches)" in said
    assert "branches only" in await world.push(work, "origin", "HEAD:refs/notes/x")
    assert world.origin.git("for-each-ref", "--format=%(refname)") == "refs/heads/main"


async def test_one_forbidden_ref_refuses_the_whole_push(world: World) -> None:
    work = await world.clone()
    work.commit("Work", {"a.txt": "changed\n"})
    said = await world.push(work, "origin", f"HEAD:{BRANCH}", "HEAD:main")
    assert "HEAD -> main (a session pushes only its own branches)" in said
    assert f"HEAD -> {BRANCH} (not pushed, because another ref of this push was refused)" in said
    assert world.origin.git("branch", "--list", BRANCH) == ""


async def test_git_s_own_refusal_comes_through_and_is_not_told(world: World) -> None:
    world.origin.git("checkout", "-q", "-b", BRANCH)
    work = await world.clone()
    work.commit("Work", {"a.txt": "changed\n"})
    said = await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert "refusing to update checked out branch" in said
    assert world.door.pushed == []


async def test_a_repository_of_another_session_is_not_found(world: World) -> None:
    said = await world.git("clone", f"{world.door.url}/other", str(world.tmp / "x"), check=False)
    assert "remote: The repository 'other' is not part of this session. It has: repo." in said
    assert "not found" in said


async def test_without_the_right_to_write_nothing_is_pushed(world: World) -> None:
    world.door.repositories["repo"] = RepositoryGrant(
        world.door.repositories["repo"].backend, BRANCH, writable=False
    )
    work = await world.clone()
    work.commit("Work", {"a.txt": "changed\n"})
    said = await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert "may only read 'repo'" in said


async def test_without_a_valid_token_nothing_is_served(world: World) -> None:
    world.door.credential = "Bearer right"
    assert "could not read Username" in await world.git("ls-remote", world.url, check=False)
    asked = await world.git("-c", "http.extraHeader=Authorization: Bearer right", "ls-remote", world.url)
    assert "refs/heads/main" in asked
    assert "Bearer right" not in [seen for host in world.hosts[1:] for seen in host.seen]


async def test_a_stranger_s_body_is_not_waited_for(tmp_path: Path) -> None:
    async with serving() as door:
        door.credential = "Bearer right"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.split(":")[2].split("/")[0]))
        writer.write(b"POST /git/repo/git-upload-pack HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 401") and b"This token is not valid." in answer
        writer.close()


async def test_a_failing_recorder_does_not_make_an_accepted_push_fail(world: World) -> None:
    world.door.crash_when_told = True
    work = await world.clone()
    head = work.commit("Work", {"a.txt": "changed\n"})
    assert "error" not in await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert world.origin.head(BRANCH) == head


async def test_pushes_that_need_chunks_and_a_probe(world: World) -> None:
    work = await world.clone()
    head = work.commit("Big", {"big.bin": os.urandom(3 * 1024 * 1024)})
    await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert world.origin.head(BRANCH) == head
    said = await world.push(work, "origin", "HEAD:main")
    assert "! [remote rejected]" in said and "remote: Open-Inspect refused" in said
    again = await world.clone("-b", BRANCH, name="again")
    assert again.head() == head


async def test_pushing_from_a_shallow_clone(world: World) -> None:
    world.origin.commit("Second", {"a.txt": "one\nmore\n"})
    work = await world.clone("--depth=1")
    head = work.commit("Work", {"a.txt": "changed\n"})
    await world.push(work, "origin", f"HEAD:{BRANCH}")
    assert world.origin.head(BRANCH) == head


async def test_rubbish_is_answered_with_400_and_a_reason(world: World) -> None:
    async with httpx2.AsyncClient() as client:

        async def post(service: str, body: bytes, **headers: str) -> httpx2.Response:
            return await client.post(
                f"{world.url}/{service}",
                content=body,
                headers={k.replace("_", "-"): v for k, v in headers.items()},
            )

        for body in (b"", b"zzzz", b"0001", pkt_line(b"rubbish") + b"0000", b"00"):
            answer = await post("git-receive-pack", body)
            assert (answer.status_code, "not a push" in answer.text) == (400, True)
        assert (await post("git-receive-pack", b"nope", content_encoding="gzip")).status_code == 400
        cut = gzip.compress(b"0000" * 100)[:-6]
        assert (await post("git-upload-pack", cut, content_encoding="gzip")).status_code == 400
        assert (await post("git-upload-pack", b"x", content_encoding="br")).status_code == 415
        bomb = gzip.compress(b"0032" * (8 * 1024 * 1024))
        assert (await post("git-upload-pack", bomb, content_encoding="gzip")).status_code == 413
        assert (await post("git-receive-pack", b"0000")).status_code == 200
        for path, status in (
            ("info/refs", 403),
            ("info/refs?service=git-daemon", 403),
            ("HEAD", 404),
            ("objects/info/packs", 404),
            ("git-upload-pack", 405),
        ):
            answer = await client.get(f"{world.url}/{path}")
            assert (answer.status_code, answer.headers["content-type"]) == (
                status,
                "text/plain; charset=utf-8",
            )
        for path in ("/git/../git/repo/config", "/git/repo/../../x", "/git/%2e%2e/info/refs", "/git/"):
            answer = await client.get(world.door.url.removesuffix("/git") + path)
            assert answer.status_code == 404


async def test_rubbish_after_the_commands_is_git_s_to_refuse(world: World) -> None:
    head = world.origin.head()
    line = f"{NONE} {head} refs/heads/{BRANCH}\0report-status side-band-64k".encode()
    async with httpx2.AsyncClient() as client:
        answer = await client.post(
            f"{world.url}/git-receive-pack", content=pkt_line(line) + b"0000" + b"no pack at all" * 50_000
        )
    assert answer.status_code == 200
    assert b"unpack" in answer.content and b"ok refs" not in answer.content
    assert world.origin.git("branch", "--list", BRANCH) == ""
    assert world.door.pushed == []


async def test_a_code_host_that_is_gone_or_refuses_is_said_with_a_remedy(tmp_path: Path) -> None:
    async with serving() as door, serving() as host:
        closed = socket.create_server(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        closed.close()
        host.credential = SECRET
        for name, url in (("gone", f"http://127.0.0.1:{port}/x.git"), ("refused", f"{host.url}/x.git")):
            backend = UpstreamGitBackend(url=url, authorization=SecretStr("Bearer stale-secret"))
            door.repositories[name] = RepositoryGrant(backend, BRANCH)
            async with httpx2.AsyncClient() as client:
                answer = await client.get(f"{door.url}/{name}/info/refs?service=git-upload-pack")
            assert answer.status_code == 502
            assert "stale-secret" not in answer.text and "Traceback" not in answer.text
        assert "credential" in answer.text


async def test_objects_that_would_harm_a_checkout_are_refused(world: World) -> None:
    work = await world.clone()
    blob = work.git("rev-parse", "HEAD:a.txt")
    bad = work.path / "tree"
    bad.write_bytes(b"100644 .git\0" + bytes.fromhex(blob))
    tree = work.git("hash-object", "-t", "tree", "-w", "--literally", str(bad))
    commit = work.git("commit-tree", tree, "-p", "HEAD", "-m", "Trap")
    said = await world.push(work, "origin", f"{commit}:refs/heads/{BRANCH}")
    assert "hasDotgit" in said and "[remote rejected]" in said
    assert world.origin.git("branch", "--list", BRANCH) == ""


async def test_an_old_history_with_harmless_faults_is_taken(world: World) -> None:
    work = await world.clone()
    commit = work.path / "commit"
    text = work.git("cat-file", "commit", "HEAD").replace("> ", ">", 1)
    commit.write_text(text + "\n")
    sha = work.git("hash-object", "-t", "commit", "-w", "--literally", str(commit))
    await world.push(work, "origin", f"{sha}:refs/heads/{BRANCH}")
    assert world.origin.head(BRANCH) == sha


async def test_a_folder_that_is_gone_is_said_with_a_remedy(tmp_path: Path) -> None:
    async with serving() as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=tmp_path / "gone"), BRANCH)
        async with httpx2.AsyncClient() as client:
            answer = await client.get(f"{door.url}/repo/info/refs?service=git-upload-pack")
    assert answer.status_code == 502 and "There is no folder" in answer.text


def bomb(size: int, copies: int) -> tuple[str, bytes]:
    """A commit with a file of ``size`` × ``copies`` bytes, and the small pack that holds it: the file is a delta that copies one block again and again."""

    def named(kind: bytes, body: bytes) -> bytes:
        return hashlib.sha1(kind + b" %d\0" % len(body) + body).digest()

    def number(value: int) -> bytes:
        out = b""
        while value > 0x7F:
            out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
        return out + bytes([value])

    def entry(kind: int, length: int, payload: bytes) -> bytes:
        first, length = kind << 4 | length & 15, length >> 4
        return bytes([first | 0x80]) + number(length) + payload if length else bytes([first]) + payload

    assert size & 0xFF00FFFF == 0  # then two bytes say how much is copied
    block = bytes(size)
    delta = number(size) + number(size * copies) + bytes([0xC0, size >> 16]) * copies
    tree = b"100644 big\0" + named(b"blob", block * copies)
    commit = b"tree " + named(b"tree", tree).hex().encode()
    commit += b"\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\nBig\n"
    pack = b"PACK" + struct.pack(">II", 2, 4)
    pack += entry(1, len(commit), zlib.compress(commit)) + entry(2, len(tree), zlib.compress(tree))
    pack += entry(3, size, zlib.compress(block))
    pack += entry(7, len(delta), named(b"blob", block) + zlib.compress(delta))
    return named(b"commit", commit).hex(), pack + hashlib.sha1(pack).digest()


@pytest.mark.parametrize(("unpack", "bound"), [("100", "alloc"), ("1", "alloc"), ("100", "data")])
async def test_a_small_pack_whose_object_is_large_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpack: str, bound: str
) -> None:
    """By the program that unpacks small packs, and by the one that keeps them whole."""
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    origin.git("config", "receive.unpackLimit", unpack)
    head, pack = bomb(1 << 20, 200)
    assert len(pack) < 16_384
    line = f"{NONE} {head} refs/heads/{BRANCH}\0report-status side-band-64k".encode()
    body = pkt_line(line) + b"0000" + pack
    if bound == "alloc":
        lowered = {**local_git._ENVIRONMENT, "GIT_ALLOC_LIMIT": str(100 << 20)}
        monkeypatch.setattr(local_git, "_ENVIRONMENT", lowered)
    else:
        monkeypatch.setattr(local_git, "MOST_DATA", 150 << 20)
    async with serving() as door, httpx2.AsyncClient(timeout=30) as client:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        answer = await client.post(f"{door.url}/repo/git-receive-pack", content=body)
        assert answer.status_code == 200
        said = answer.content
        assert b"for one object of a push" in said and b"Do this instead: leave that file out" in said
        assert b"unpack ok" not in said and b"ng refs/heads/" in said and said.endswith(b"0000")
        assert door.pushed == []
    objects = origin.path / ".git" / "objects"
    assert list(objects.glob("tmp_objdir-*")) == [] and not (objects / head[:2] / head[2:]).exists()
    assert list((objects / "pack").glob("*")) == [] and size_of(origin) < 1 << 20


async def test_git_has_bounds_and_is_ended_before_the_server(tmp_path: Path) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    command = local_git.Git(locate(origin.path)).in_repository(["cat-file", "--batch"])
    async with local_git.running(command) as process:
        await until(lambda: psutil.Process(process.pid).name() == "git")
        seen = psutil.Process(process.pid)
        assert seen.rlimit(psutil.RLIMIT_DATA) == (local_git.MOST_DATA,) * 2
        assert seen.rlimit(psutil.RLIMIT_CPU) == (local_git.MOST_CPU_SECONDS,) * 2
        more = await asyncio.to_thread(Path(f"/proc/{process.pid}/oom_score_adj").read_text)
        assert int(more) == 500


def git_processes() -> list[str]:
    """The command lines of git's processes under this one."""
    lines: list[str] = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() in ("git", "setpriv"):
                lines.append(" ".join(child.cmdline()))
    return lines


async def test_a_client_killed_in_a_fetch_leaves_no_process(tmp_path: Path) -> None:
    origin = SampleRepository.create(tmp_path / "origin")
    origin.git("config", "core.compression", "0")
    origin.commit("Big", {"big": os.urandom(30 * 1024 * 1024)})
    async with serving() as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.split(":")[2].split("/")[0]))
        body = pkt_line(f"want {origin.head()} no-progress\n".encode()) + b"0000" + pkt_line(b"done\n")
        writer.write(
            b"POST /git/repo/git-upload-pack HTTP/1.1\r\nhost: x\r\n"
            + f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await reader.readexactly(1000)  # the pack has begun to come, and then nobody reads on
        assert any(" upload-pack " in line for line in git_processes())
        writer.transport.abort()
        await until(lambda: not git_processes())


async def test_a_client_killed_in_a_push_leaves_no_process_and_no_objects(tmp_path: Path) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    async with serving() as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        _, writer = await asyncio.open_connection("127.0.0.1", int(door.url.split(":")[2].split("/")[0]))
        line = f"{NONE} {'1' * 40} refs/heads/{BRANCH}\0report-status side-band-64k".encode()
        body = pkt_line(line) + b"0000PACK\0\0\0\2\0\0\0\1"
        writer.write(
            b"POST /git/repo/git-receive-pack HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + body
        )
        await until(lambda: any(" receive-pack " in line for line in git_processes()))
        objects = origin.path / ".git" / "objects"
        await until(lambda: any(objects.glob("tmp_objdir-*")))
        writer.transport.abort()
        await until(lambda: not git_processes())
    assert door.pushed == []
    assert list(objects.glob("tmp_objdir-*")) == []


def size_of(origin: SampleRepository) -> int:
    return sum(file.stat().st_size for file in origin.path.rglob("*") if file.is_file())


async def test_a_session_s_pushes_together_are_bounded_also_when_their_branches_are_gone(
    tmp_path: Path,
) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    mebibyte = 1024 * 1024
    async with serving(Limits(session_bytes=4 * mebibyte)) as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        world = World(door, origin, tmp_path, [door])
        work = await world.clone()
        said, done = "", 0
        for n in range(4):
            work.git("checkout", "-q", "--orphan", f"side{n}")
            work.commit("Big", {"big": os.urandom(3 * mebibyte // 2)})
            said = await world.push(work, "origin", f"HEAD:{BRANCH}-t1")
            if "rejected" in said:
                break
            done += 1
            await world.push(work, "origin", f":{BRANCH}-t1")
        assert done == 2
        assert "(the session's pushes together may bring 4 MiB)" in said and "rule push-budget" in said
        assert "leave large files out" in said and "create_pull_request" not in said
        assert [refusal.rule for refusal in door.refused] == ["push-budget"]
        assert size_of(origin) < 4 * mebibyte
        # what was refused is not counted: small pushes still fit
        work.git("checkout", "-q", "main")
        head = work.commit("Small", {"a": "2"})
        assert "rejected" not in await world.push(work, "origin", f"HEAD:{BRANCH}")
        assert origin.head(BRANCH) == head


async def test_what_git_stores_beyond_what_was_sent_counts_too(tmp_path: Path) -> None:
    mebibyte = 1024 * 1024
    big = os.urandom(mebibyte)
    origin = SampleRepository.create(tmp_path / "origin", {"big": big})
    async with serving(Limits(session_bytes=3 * mebibyte)) as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        world = World(door, origin, tmp_path, [door])
        work = await world.clone()
        said = ""
        for n in range(5):  # each one travels as a few bytes on top of what is there, and is stored whole
            work.commit("One more byte", {"big": big + bytes([n])})
            said = await world.push(work, "origin", f"HEAD:{BRANCH}")
            if "rejected" in said:
                break
        assert "rule push-budget" in said
        assert size_of(origin) < 6 * mebibyte
        assert "rejected" not in await world.push(work, "origin", f":{BRANCH}")


async def test_a_pack_that_git_has_taken_counts_though_rubbish_came_after_it(tmp_path: Path) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    mebibyte = 1024 * 1024
    async with serving(Limits(session_bytes=4 * mebibyte)) as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        world = World(door, origin, tmp_path, [door])
        work = await world.clone()
        for n in range(8):
            work.git("checkout", "-q", "--orphan", f"side{n}")
            head = work.commit("Big", {"big": os.urandom(mebibyte)})
            work.git("repack", "-q", "-a", "-d")
            (pack,) = (work.path / ".git/objects/pack").glob("*.pack")
            line = f"{NONE} {head} refs/heads/{BRANCH}-{n}\0report-status".encode()
            body = pkt_line(line) + b"0000" + pack.read_bytes()
            work.git("checkout", "-q", "main")
            work.git("branch", "-q", "-D", f"side{n}")
            work.git("reflog", "expire", "--expire=now", "--all")

            async def slowly(body: bytes = body) -> AsyncIterator[bytes]:
                yield body
                await asyncio.sleep(0.2)  # git may be done with the pack by now, or not: both have to hold
                for _ in range(8):
                    yield b"x" * mebibyte

            async with httpx2.AsyncClient(timeout=30) as client:
                await client.post(f"{world.url}/git-receive-pack", content=slowly())
        assert size_of(origin) < 6 * mebibyte


async def test_a_push_leaves_the_disk_some_free_space(tmp_path: Path) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    async with serving(Limits(free_bytes=2**62)) as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        world = World(door, origin, tmp_path, [door])
        work = await world.clone()
        work.commit("Work", {"a": "2"})
        said = await world.push(work, "origin", f"HEAD:{BRANCH}")
        assert "(the server's disk has less than" in said and "ask for space to be freed" in said
        assert [refusal.rule for refusal in door.refused] == ["disk-full"]
        assert origin.git("branch", "--list", BRANCH) == ""


@pytest.mark.parametrize("bound", ["exchanges", "exchanges_per_session"])
async def test_a_silent_client_and_a_crowd_are_bounded(tmp_path: Path, bound: str) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    async with serving(Limits(idle_seconds=2, queue_seconds=0.1, **{bound: 1})) as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.split(":")[2].split("/")[0]))
        writer.write(b"POST /git/repo/git-receive-pack HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n0")
        await until(lambda: len(door.seen) == 1)
        async with httpx2.AsyncClient() as client:
            answer = await client.get(f"{door.url}/repo/info/refs?service=git-upload-pack")
            assert answer.status_code == 503
            async with asyncio.timeout(10):
                await reader.read()  # the silent one is cut off
            answer = await client.get(f"{door.url}/repo/info/refs?service=git-upload-pack")
            assert answer.status_code == 200
        writer.close()


async def test_a_push_and_a_clone_of_50_mb_need_little_memory(tmp_path: Path) -> None:
    origin = SampleRepository.create(tmp_path / "origin", {"a": "1"})
    script = Path(__file__).with_name("serve_git.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(origin.path), BRANCH, stdout=asyncio.subprocess.PIPE
    )

    async def line() -> tuple[str, int]:
        assert process.stdout is not None
        word, memory = (await process.stdout.readline()).split()
        return word.decode(), int(memory)

    try:
        port, at_rest = await line()
        work = SampleRepository(tmp_path / "work")
        url = f"http://127.0.0.1:{port}/git/repo"
        await asyncio.to_thread(lambda: git("clone", "-q", url, str(work.path)))
        work.git("config", "core.compression", "0")  # random bytes: trying would only take time
        head = work.commit("Big", {"big.bin": os.urandom(50 * 1024 * 1024)})
        await asyncio.to_thread(lambda: work.git("push", "-q", "origin", f"HEAD:{BRANCH}"))
        word, after = await line()
        assert word == "pushed" and origin.head(BRANCH) == head
        await asyncio.to_thread(lambda: git("clone", "-q", "-b", BRANCH, url, str(tmp_path / "again")))
        await asyncio.to_thread(lambda: work.git("push", "-q", "origin", "HEAD:main", check=False))
        word, finally_ = await line()
        assert word == "refused"
        # ru_maxrss is in KiB: a pack held in memory would add 50 MiB
        assert after - at_rest < 16 * 1024 and finally_ - at_rest < 16 * 1024
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve a repository of another user as that user")
async def test_a_repository_of_another_user_stays_that_user_s(open_path: Path, tmp_path: Path) -> None:
    origin = SampleRepository.create(open_path / "origin", {"a": "1"})
    origin.give_to(65534, 65534)
    async with serving() as door:
        door.repositories["repo"] = RepositoryGrant(LocalGitBackend(path=origin.path), BRANCH)
        await asyncio.to_thread(lambda: git("clone", "-q", f"{door.url}/repo", str(tmp_path / "work")))
        work = SampleRepository(tmp_path / "work")
        head = work.commit("Work", {"a": "2"})
        await asyncio.to_thread(lambda: work.git("push", "-q", "origin", f"HEAD:{BRANCH}"))
    assert origin.head(BRANCH) == head
    owners = {entry.lstat().st_uid for entry in origin.path.rglob("*")}
    assert owners == {65534}
