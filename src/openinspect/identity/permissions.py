"""Who may do what: one table, which every route consults and from which docs/reference/permissions.md is generated."""

from __future__ import annotations

from typing import Literal, NamedTuple

Role = Literal["owner", "admin", "member", "viewer"]
ROLES: tuple[Role, ...] = ("owner", "admin", "member", "viewer")


class Permission(NamedTuple):
    name: str
    description: str
    roles: frozenset[Role]


_ALL: frozenset[Role] = frozenset(ROLES)
_MEMBERS: frozenset[Role] = frozenset({"owner", "admin", "member"})
_ADMINS: frozenset[Role] = frozenset({"owner", "admin"})

_TABLE = [
    Permission(
        "sessions.read", "See sessions, their transcripts, diffs and attachments, and watch them live.", _ALL
    ),
    Permission("sessions.create", "Start sessions.", _MEMBERS),
    Permission(
        "sessions.prompt", "Prompt, edit and cancel queued prompts, answer questions, stop turns.", _MEMBERS
    ),
    Permission("sessions.manage", "Rename, archive and restore sessions; delete one's own.", _MEMBERS),
    Permission("sessions.delete_any", "Delete sessions of others.", _ADMINS),
    Permission("repositories.read", "See repositories, their branches and pull requests.", _ALL),
    Permission("repositories.manage", "Register and remove repositories.", _ADMINS),
    Permission(
        "pull_requests.merge", "Merge, close and reopen pull requests of the local code host.", _MEMBERS
    ),
    Permission("models.read", "See which models can be used.", _ALL),
    Permission("tokens.manage", "Make and revoke one's own API tokens.", _ALL),
    Permission("users.read", "See who has access.", _ALL),
    Permission("users.manage", "Add people, change roles, disable accounts, make sign-in links.", _ADMINS),
]
PERMISSIONS: dict[str, Permission] = {permission.name: permission for permission in _TABLE}


def permissions_of(role: Role) -> frozenset[str]:
    return frozenset(name for name, permission in PERMISSIONS.items() if role in permission.roles)


def outranks(actor: Role, other: Role) -> bool:
    """Whether ``actor`` may give or take the role ``other``: an owner every one, an admin those below."""
    return actor == "owner" or ROLES.index(actor) < ROLES.index(other)
