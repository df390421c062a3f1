"""Git, models and tools at the door: each with its grant from the rows, and its effects written into the session's log."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount

from openinspect.db.engine import is_lost
from openinspect.db.tables import session_targets
from openinspect.forges.local.forge import LocalForge
from openinspect.models import accounts
from openinspect.models.catalogue import find, small_model
from openinspect.problems import SignInNeeded
from openinspect.protocol.events import Pushed, PushRefused
from openinspect.sessions.log import Journal
from openinspect.sessions.pull_requests import Wanted, open_for_turn
from openinspect.settings import Settings

from .git import GitDenied, GitDoor, GitGrant, Limits, RepositoryGrant
from .git_events import GitEvents
from .git_policy import Refusal
from .grants import SandboxGrant, authorise, bearer
from .llm import LlmDoor
from .llm_exchange import LlmGrant
from .tools import PullRequestMade, PullRequestWanted, ToolsDoor


@dataclass(frozen=True)
class SessionGitGrant(GitGrant):
    who: SandboxGrant


class Doors:
    def __init__(self, journal: Journal, forge: LocalForge, settings: Settings) -> None:
        self.journal = journal
        self.forge = forge
        self.settings = settings
        self.llm = LlmDoor(
            settings, authorise=self._authorise_llm, reserve=self._reserve, settle=self._settle
        )
        self.tools = ToolsDoor(authorise=self._authorise_tools, create_pull_request=self._create_pull_request)
        self._git_events = GitEvents()
        # what lies on the host's disk because of a session: its sandbox's quota, and once more as much in what it pushed
        limits = Limits(session_bytes=settings.sandbox_disk_mib << 20)
        self.git = GitDoor(self._authorise_git, on_push=self._pushed, on_refused=self._refused, limits=limits)

    def mounts(self) -> list[BaseRoute]:
        return [Mount("/git", self.git), Mount("/llm", self.llm), Mount("/tools", self.tools)]

    async def aclose(self) -> None:
        await self.tools.aclose()
        await self.llm.aclose()
        await self.git.aclose()

    # ── git ───────────────────────────────────────────────────────────────────────────────────────
    async def _authorise_git(self, request: Request) -> GitGrant:
        try:
            who = await authorise(self.journal.engine, bearer(request.headers))
        except SignInNeeded as problem:
            raise GitDenied(401, f"{problem.message} {problem.remedy}") from None
        except Exception as error:
            if not is_lost(error):
                raise
            raise GitDenied(
                503, "The server's database is away for a moment. Try again in a few seconds."
            ) from None
        async with self.journal.engine.connect() as connection:
            targets = (
                await connection.execute(
                    select(session_targets).where(session_targets.c.session_id == who.session_id)
                )
            ).mappings()
        return SessionGitGrant(
            session_id=who.session_id,
            repositories={
                target["directory"]: RepositoryGrant(
                    backend=await self.forge.git_backend(target["repository_id"]),
                    branch=target["work_branch"],
                )
                for target in targets
            },
            who=who,
        )

    async def _pushed(self, grant: GitGrant, directory: str, ref: str, old: str, new: str) -> None:
        await self._append(
            grant,
            Pushed(
                directory=directory,
                ref=ref,
                old_sha=None if set(old) == {"0"} else old,
                new_sha=None if set(new) == {"0"} else new,
            ),
        )

    async def _refused(self, grant: GitGrant, directory: str, refusals: list[Refusal]) -> None:
        await self._append(
            grant,
            *(PushRefused(directory=directory, ref=one.ref, reason=one.text[:500]) for one in refusals[:20]),
        )

    async def _append(self, grant: GitGrant, *bodies: Pushed | PushRefused) -> None:
        assert isinstance(grant, SessionGitGrant)
        kept = self._git_events.within(grant.session_id, grant.who.prompt_id, bodies)
        if not kept:
            return
        async with self.journal.transaction() as transaction:
            await transaction.append(grant.session_id, *kept, turn_id=grant.who.prompt_id)

    # ── tools ─────────────────────────────────────────────────────────────────────────────────────
    async def _authorise_tools(self, token: str) -> SandboxGrant:
        return await authorise(self.journal.engine, token)

    async def _create_pull_request(self, who: SandboxGrant, asked: PullRequestWanted) -> PullRequestMade:
        assert who.prompt_id is not None  # the tools' door lets nobody in without
        link = f"{self.settings.base_url}/sessions/{who.session_id}"
        wanted = Wanted(asked.title, asked.body, asked.base, asked.draft, asked.repository)
        opened = await open_for_turn(self.journal, self.forge, who.session_id, who.prompt_id, wanted, link)
        return PullRequestMade(
            number=opened.number,
            url=f"{link}?pull-request={opened.id}",
            created=opened.created,
            repository=opened.repository,
            title=opened.title,
            head=opened.head,
            base=opened.base,
            draft=opened.draft,
        )

    # ── models ────────────────────────────────────────────────────────────────────────────────────
    async def _authorise_llm(self, token: str) -> LlmGrant:
        who = await authorise(self.journal.engine, token)
        model = find(who.prompt_model or who.session_model)
        budget = self.settings.budget_usd
        return LlmGrant(
            session_id=who.session_id,
            prompt_id=who.prompt_id,
            models=frozenset({model.id, small_model(model).id}),
            budget_usd=None if budget is None else Decimal(str(budget)),
        )

    async def _reserve(self, reservation: accounts.Reservation) -> str:
        if reservation.budget_usd is None:
            # Then it is a single statement, and two round trips fewer before the call goes out.
            engine = self.journal.engine.execution_options(isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                return await accounts.reserve(connection, reservation)
        async with self.journal.transaction() as transaction:
            return await accounts.reserve(transaction.connection, reservation)

    async def _settle(self, call_id: str, outcome: accounts.CallOutcome) -> None:
        async with self.journal.transaction() as transaction:
            settled = await accounts.settle(transaction.connection, call_id, outcome)
            if settled is not None:
                await transaction.append(settled.session_id, settled.event, turn_id=settled.prompt_id)
