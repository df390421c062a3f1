"""The seam to a code host: repositories, branches, pull requests, and how the gateway reaches git.

States of a pull request: ``open → merged`` (final), ``open → closed → open``. A pull request keeps its head and merge base, also after its
branch is gone, so that its diff stays readable.

Calls may come in any order, from several processes at once. Each is bounded in time (30 s unless said otherwise) and raises only
``forges.errors.ForgeError``. Opening is idempotent by lookup: for (repository, head, base) there is at most one open pull request, and opening
it again updates and returns it. Merging again what is merged returns it unchanged. Git is the truth and rows follow: a pull request
whose head has come into its base in another way becomes merged when it is next looked at.

Implementations: ``local/`` (repositories on this machine). All of them pass ``tests/conformance/test_forges.py``.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator

from ..protocol.diffs import RepositoryDiff

CALL_SECONDS = 30.0
MAX_BRANCHES = 5_000
MAX_PULL_REQUESTS = 500

Title = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]
Body = Annotated[str, StringConstraints(max_length=65_536)]
BranchName = Annotated[str, StringConstraints(min_length=1, max_length=244)]
MergeMethod = Literal["ff", "merge", "squash"]
PullRequestState = Literal["open", "merged", "closed"]


def storable_text(value: str) -> str:
    """``value`` without what Postgres or a commit can't hold: NUL and halves of surrogate pairs."""
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Person(_Model):
    """Somebody as git writes them down. ``id`` is the user's id with us, where they have one."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    email: Annotated[str, StringConstraints(min_length=1, max_length=320)]
    id: str | None = None

    @field_validator("name", "email")
    @classmethod
    def _one_line(cls, value: str) -> str:
        # git's own rules: some bytes would break the header line of a commit, and a name may not be punctuation alone
        cleaned = "".join(c for c in storable_text(value) if c not in "<>" and ord(c) >= 32).strip()
        if not cleaned.strip(" .,:;\"'\\"):
            raise ValueError("is empty, or only of characters that a commit can't hold")
        return cleaned


COMMITTER = Person(name="Open-Inspect", email="agent@open-inspect.invalid")
"""The committer of every commit that the system makes; its author is a person."""


class Repository(_Model):
    id: str
    forge: str
    name: str
    """Shown, and used in addresses; unique regardless of case."""
    location: str
    """For a local repository its folder, else the address of its page."""
    origin_url: str | None
    """Where it was cloned from, without credentials."""
    default_branch: str | None
    """None while the repository is empty."""
    created_at: datetime


class Branch(_Model):
    name: str
    sha: str
    committed_at: datetime
    subject: str
    """First line of the newest commit's message."""


class LocalGitBackend(_Model):
    """Git is served by git itself from a folder on this machine."""

    kind: Literal["local"] = "local"
    path: Path
    """The repository's folder, with or without a work tree."""


class UpstreamGitBackend(_Model):
    """Git is served by another server; the gateway adds the credential, which nothing behind the gateway ever sees."""

    kind: Literal["upstream"] = "upstream"
    url: str
    """``https://host/owner/name.git``: to it ``/info/refs`` and the services' names are appended."""
    authorization: SecretStr | None = None
    """Value of the ``Authorization`` header; None for a public repository."""


GitBackend = Annotated[LocalGitBackend | UpstreamGitBackend, Field(discriminator="kind")]


class NewPullRequest(_Model):
    repository_id: str
    head: BranchName
    base: BranchName
    title: Title
    body: Body = ""
    draft: bool = False
    author: Person
    session_id: str | None = None
    prompt_id: str | None = None

    @field_validator("title", "body")
    @classmethod
    def _storable(cls, value: str) -> str:
        return storable_text(value)


class PullRequestChange(_Model):
    """What is to be changed; a field that is None stays as it is."""

    title: Title | None = None
    body: Body | None = None
    draft: bool | None = None
    base: BranchName | None = None

    @field_validator("title", "body")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        return None if value is None else storable_text(value)


class PullRequest(_Model):
    id: str
    repository_id: str
    repository: str
    """The repository's name."""
    number: int
    title: str
    body: str
    state: PullRequestState
    draft: bool
    head: str
    base: str
    head_sha: str
    base_sha: str
    """Merge base of the two branches; the diff is read against it."""
    author: Person
    session_id: str | None
    prompt_id: str | None
    merge_method: MergeMethod | None
    """None for an open one, and for one that was merged by other means than ours."""
    merge_sha: str | None
    merged_by: str | None
    """Id of the user who merged it."""
    created_at: datetime
    updated_at: datetime
    merged_at: datetime | None
    closed_at: datetime | None
    created: bool = False
    """True in the answer to the very call that opened it; False when an open one was found and updated."""


class Mergeability(_Model):
    """Whether a pull request could be merged now, for the page's button."""

    mergeable: bool
    methods: list[MergeMethod]
    head_sha: str | None
    commits: int
    """Commits in head that base lacks."""
    reason: str = ""
    remedy: str = ""
    conflicts: list[str] = []


class Forge(Protocol):
    """A code host. Every method raises ``RepositoryNotFound`` for a repository that it does not know."""

    name: str

    async def repository(self, reference: str) -> Repository:
        """The repository by its id, its name (regardless of case), its folder or the URL that it was cloned from."""
        ...

    async def list_repositories(self) -> list[Repository]:
        """All of them, by name."""
        ...

    async def git_backend(self, repository_id: str) -> GitBackend:
        """How the gateway reaches its git, with a credential that is valid for at least five minutes where one is needed."""
        ...

    async def list_branches(self, repository_id: str, *, limit: int = MAX_BRANCHES) -> list[Branch]:
        """The newest first; empty for an empty repository."""
        ...

    async def branch_head(self, repository_id: str, branch: str) -> str:
        """The commit at the branch's tip. Raises ``BranchNotFound``, ``EmptyRepository``, ``RepositoryUnusable`` (commits, and no branch)."""
        ...

    async def default_branch(self, repository_id: str) -> str:
        """The branch that work begins from when nobody names one. Raises ``EmptyRepository``, ``RepositoryUnusable`` (commits, and no branch)."""
        ...

    async def open_pull_request(self, new: NewPullRequest) -> PullRequest:
        """Open it, or update title and body of the one that is open for the same head and base.

        Raises ``BranchNotFound``, ``EmptyRepository``, ``NothingToPropose``.
        """
        ...

    async def update_pull_request(
        self, repository_id: str, number: int, change: PullRequestChange
    ) -> PullRequest:
        """Raises ``PullRequestNotFound``, and ``InvalidRequest`` for a new base of a merged or closed one."""
        ...

    async def pull_request(self, repository_id: str, number: int) -> PullRequest:
        """As it is now: head and state are taken from git. Raises ``PullRequestNotFound``."""
        ...

    async def list_pull_requests(
        self,
        *,
        repository_id: str | None = None,
        session_id: str | None = None,
        state: PullRequestState | None = None,
        limit: int = 100,
    ) -> list[PullRequest]:
        """The newest first, as they were last looked at. At most ``MAX_PULL_REQUESTS``."""
        ...

    async def pull_request_diff(self, repository_id: str, number: int) -> RepositoryDiff:
        """What head changes since it left base (base...head), within the bounds of ``protocol.diffs``."""
        ...

    async def mergeability(self, repository_id: str, number: int) -> Mergeability:
        """Never raises for a pull request that can't be merged: it says so."""
        ...

    async def merge(
        self,
        repository_id: str,
        number: int,
        *,
        method: MergeMethod,
        by: Person,
        expected_head: str | None = None,
    ) -> PullRequest:
        """Merge it. ``expected_head`` is the head that the person looked at.

        Raises ``HeadMoved``, ``MergeConflict``, ``NotMergeable``, ``BranchNotFound``.
        """
        ...

    async def close(self, repository_id: str, number: int) -> PullRequest:
        """Close it without merging; closing a closed one changes nothing. Raises ``InvalidRequest`` for a merged one."""
        ...

    async def reopen(self, repository_id: str, number: int) -> PullRequest:
        """Raises ``InvalidRequest`` for a merged one, ``BranchNotFound`` when a branch is gone, ``NothingToPropose``."""
        ...
