"""Small real git repositories for tests, benchmarks and the demo, made with git itself and nothing of the machine's settings."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

SAM = ("Sam Sample", "sam@example.com")

_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


class GitCommandFailed(Exception):
    """A git command of a test ended with another code than 0; the text is what it printed."""


def git(
    *args: str, at: Path | None = None, check: bool = True, person: tuple[str, str] = SAM, timeout: float = 60
) -> str:
    """Run git as ``person``; gives what it printed, both streams, without white space at the ends."""
    name, email = person
    identity = {
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
    }
    done = subprocess.run(
        ["git", *args],
        cwd=at or "/",
        env={**_ENVIRONMENT, **identity},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    text = done.stdout.decode("utf-8", "replace").strip()
    if check and done.returncode != 0:
        raise GitCommandFailed(f"git {' '.join(args)}: {done.returncode}: {text}")
    return text


class SampleRepository:
    """A repository with a work tree at ``path``, on branch ``main``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path, files: Mapping[str, str | bytes] | None = None, *, object_format: str = "sha1"
    ) -> SampleRepository:
        """A new one with one commit of ``files``; with none at all it stays empty."""
        path.mkdir(parents=True, exist_ok=True)
        git("init", "-q", "-b", "main", f"--object-format={object_format}", at=path)
        repository = cls(path)
        if files:
            repository.commit("First commit", files)
        return repository

    def git(self, *args: str, check: bool = True, person: tuple[str, str] = SAM) -> str:
        return git(*args, at=self.path, check=check, person=person)

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(
        self, message: str, files: Mapping[str, str | bytes] | None = None, *, person: tuple[str, str] = SAM
    ) -> str:
        """Write ``files``, commit everything, and give the commit."""
        self.write(files or {})
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message, person=person)
        return self.git("rev-parse", "HEAD")

    def commit_on(
        self,
        branch: str,
        message: str,
        files: Mapping[str, str | bytes],
        *,
        start: str = "main",
        person: tuple[str, str] = SAM,
    ) -> str:
        """A commit on ``branch`` (begun from ``start`` when it is new), without touching the work tree or what is checked out."""
        temporary = self.path.parent / f".{self.path.name}-{branch.replace('/', '-')}"
        exists = self.git("rev-parse", "-q", "--verify", f"refs/heads/{branch}", check=False)
        self.git("worktree", "add", "-q", "--detach", str(temporary), branch if exists else start)
        other = SampleRepository(temporary)
        try:
            sha = other.commit(message, files, person=person)
            self.git("update-ref", f"refs/heads/{branch}", sha)
        finally:
            shutil.rmtree(temporary)
            self.git("worktree", "prune")
        return sha

    def head(self, branch: str = "HEAD") -> str:
        return self.git("rev-parse", "--verify", branch)

    def bare_copy(self, path: Path) -> SampleRepository:
        """A bare clone of it."""
        git("clone", "-q", "--bare", "--no-hardlinks", str(self.path), str(path))
        return SampleRepository(path)

    def give_to(self, uid: int, gid: int) -> None:
        """Make the whole folder belong to somebody else; needs root."""
        for parent, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                os.chown(Path(parent) / name, uid, gid, follow_symlinks=False)
        os.chown(self.path, uid, gid)
