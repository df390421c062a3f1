"""What a session may push, as pure functions on git's own protocol.

A push begins with its commands: for every ref its old value, its new value and its name, then a flush packet, then the pack. Rules:

- only branches of the session: exactly ``refs/heads/<branch>``, or a name that starts with ``refs/heads/<branch>-``; on those everything is
  allowed, force and delete included;
- never a tag, another branch, or anything else;
- never a name that is not UTF-8, or that holds a character which is not shown or turns the direction of text: who reads it would read another name;
- one forbidden command refuses the whole push: nothing of it reaches the repository.

Bounds: 64 commands, 64 KiB of them. What is within the bounds and no push raises ``MalformedPush``; a forbidden push is answered in git's own report, so
that ``git push`` prints the rule, the allowed branch and the way out.

The commands are parsed here and written anew for git (``PushRequest.encode``), so that git can't understand them differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dulwich.errors import GitProtocolError
from dulwich.protocol import PktLineParser, pkt_line
from dulwich.refs import check_ref_format

MAX_COMMANDS = 64
MAX_HEADER_BYTES = 64 * 1024
MAX_SHALLOW_LINES = 1_000
_SIDEBAND_TEXT = 900

_OID = re.compile(rb"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")
# what receive-pack may be told; push options and certificates would carry more than refs
_CAPABILITIES = frozenset(
    (
        b"report-status",
        b"report-status-v2",
        b"side-band-64k",
        b"quiet",
        b"atomic",
        b"ofs-delta",
        b"delete-refs",
    )
)
_VALUED_CAPABILITIES = (b"object-format=", b"agent=")


class MalformedPush(Exception):
    """The request is not a push that git sends, or is over the bounds. The text says which."""


@dataclass(frozen=True)
class PushCommand:
    old: str
    new: str
    ref: bytes

    @property
    def deletes(self) -> bool:
        return not self.new.strip("0")

    @property
    def name(self) -> str:
        """The ref's name, fit to be shown: no control characters, at most 200 characters."""
        text = self.ref.decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)[:200]


@dataclass(frozen=True)
class PushRequest:
    commands: tuple[PushCommand, ...]
    """Empty for git's probe before a large push."""
    capabilities: tuple[bytes, ...] = ()
    shallow: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The same request with its flush packet, as it is handed to git."""
        lines = [b"shallow " + oid for oid in self.shallow]
        for index, command in enumerate(self.commands):
            line = f"{command.old} {command.new} ".encode() + command.ref
            lines.append(line + b"\0 " + b" ".join(self.capabilities) if index == 0 else line)
        return b"".join(pkt_line(line) for line in lines) + b"0000"


class PushParser:
    """Takes a push's body piece by piece until its commands are complete; ``rest`` is then what came after them."""

    def __init__(self) -> None:
        self._parser = PktLineParser(self._packet)
        self._received = bytearray()
        self._consumed = 0
        self._lines: list[bytes] = []

    @property
    def rest(self) -> bytes:
        return bytes(self._received[self._consumed :])

    def feed(self, data: bytes) -> PushRequest | None:
        """The request once its flush packet is there. Raises ``MalformedPush``."""
        # the first piece of a body may hold a lot of the pack already: only so much is looked at
        fresh = data[: MAX_HEADER_BYTES + 4]
        self._received += data
        try:
            self._parser.parse(fresh)
        except _Flush:
            return _request(self._lines)
        except GitProtocolError as error:
            raise MalformedPush("a packet's length is not four hexadecimal digits") from error
        if len(self._received) > MAX_HEADER_BYTES:
            raise MalformedPush(f"the commands are longer than {MAX_HEADER_BYTES >> 10} KiB")
        return None

    def ended_early(self) -> MalformedPush:
        """The error for a body that ended without a flush packet."""
        return MalformedPush("the body ended before the commands did")

    def _packet(self, packet: bytes | None) -> None:
        self._consumed += 4 + len(packet or b"")
        if self._consumed > MAX_HEADER_BYTES:
            raise MalformedPush(f"the commands are longer than {MAX_HEADER_BYTES >> 10} KiB")
        if packet is None:
            raise _Flush
        self._lines.append(packet)
        if len(self._lines) > MAX_COMMANDS + MAX_SHALLOW_LINES:
            raise MalformedPush("there are too many lines before the pack")


class _Flush(Exception):
    pass


def _request(lines: Iterable[bytes]) -> PushRequest:
    commands: list[PushCommand] = []
    shallow: list[bytes] = []
    capabilities: tuple[bytes, ...] = ()
    for raw in lines:
        text, _, tail = raw.removesuffix(b"\n").partition(b"\0")
        if text.startswith(b"push-cert"):
            raise MalformedPush("signed pushes are not supported: push without --signed")
        if text.startswith(b"shallow "):
            oid = text[len(b"shallow ") :]
            if commands or not _OID.match(oid):
                raise MalformedPush("a line about a shallow commit is broken")
            shallow.append(oid)
            continue
        if not commands:
            capabilities = _known(tail)
        commands.append(_command(text))
    if len(commands) > MAX_COMMANDS:
        raise MalformedPush(f"more than {MAX_COMMANDS} refs in one push")
    if len({command.ref for command in commands}) != len(commands):
        raise MalformedPush("the same ref is named twice")
    if len({len(oid) for command in commands for oid in (command.old, command.new)}) > 1:
        raise MalformedPush("commits are named by two different hashes")
    return PushRequest(tuple(commands), capabilities, tuple(shallow))


def _command(text: bytes) -> PushCommand:
    parts = text.split(b" ", 2)
    if len(parts) != 3 or not _OID.match(parts[0]) or not _OID.match(parts[1]):
        raise MalformedPush("a command is not `old new ref`")
    old, new, ref = parts
    if not ref.startswith(b"refs/") or len(ref) > 1024 or not check_ref_format(ref):  # pyright: ignore[reportArgumentType]
        raise MalformedPush("a ref's name is not valid")
    return PushCommand(old.decode(), new.decode(), ref)


def _known(raw: bytes) -> tuple[bytes, ...]:
    words = raw.split()
    if any(word == b"push-options" or word.startswith(b"push-options=") for word in words):
        raise MalformedPush("push options are not supported: push without --push-option")
    return tuple(w for w in words if w in _CAPABILITIES or w.startswith(_VALUED_CAPABILITIES))


@dataclass(frozen=True)
class Refusal:
    """One ref that may not be pushed. ``rule`` is the rule's stable name, ``text`` says it in words."""

    ref: str
    rule: str
    text: str


def judge(request: PushRequest, branch: str) -> list[Refusal]:
    """What of ``request`` is forbidden for a session whose branch is ``branch`` (without ``refs/heads/``); empty: all is allowed."""
    return [refusal for command in request.commands if (refusal := _judge(command, branch)) is not None]


def _judge(command: PushCommand, branch: str) -> Refusal | None:
    try:
        text = command.ref.decode("utf-8")
    except UnicodeDecodeError:
        return Refusal(command.name, "utf-8-names", "a branch's name must be UTF-8 text")
    if not text.isprintable():  # the marks of direction are not, either
        return Refusal(
            command.name, "printable-names", "a branch's name must have no invisible or control characters"
        )
    own = b"refs/heads/" + branch.encode()
    if command.ref == own or command.ref.startswith(own + b"-"):
        return None
    if command.ref.startswith(b"refs/tags/"):
        return Refusal(command.name, "no-tags", "a session pushes no tags")
    if not command.ref.startswith(b"refs/heads/"):
        return Refusal(command.name, "branches-only", "a session pushes branches only")
    if command.deletes:
        return Refusal(command.name, "delete-own-only", "a session deletes only its own branches")
    return Refusal(command.name, "own-branch-only", "a session pushes only its own branches")


def refusal_answer(
    request: PushRequest, refusals: list[Refusal], branch: str, remedy: tuple[str, ...] = ()
) -> bytes:
    """The refused push's answer as git reads it: the report, and the lines that it prints after ``remote:``.

    ``remedy`` is what to do; without it, how to push what the rules allow.
    """
    by_ref = {refusal.ref: refusal.text for refusal in refusals}
    report = pkt_line(b"unpack ok\n")
    for command in request.commands:
        text = by_ref.get(command.name, "not pushed, because another ref of this push was refused")
        report += pkt_line(b"ng " + command.ref + b" " + text.encode() + b"\n")
    report += b"0000"
    if b"side-band-64k" not in request.capabilities:
        return report
    answer = b"".join(
        pkt_line(b"\x02" + line.encode()[:_SIDEBAND_TEXT] + b"\n")
        for line in _explanation(refusals, remedy or _allowed(branch))
    )
    for start in range(0, len(report), 65_000):
        answer += pkt_line(b"\x01" + report[start : start + 65_000])
    return answer + b"0000"


def _explanation(refusals: list[Refusal], remedy: tuple[str, ...]) -> list[str]:
    shown = [f"  {refusal.ref}: {refusal.text} (rule {refusal.rule})" for refusal in refusals[:10]]
    if len(refusals) > 10:
        shown.append(f"  and {len(refusals) - 10} more")
    return [
        "Open-Inspect refused this push; nothing of it was accepted.",
        *shown,
        *remedy,
    ]


def _allowed(branch: str) -> tuple[str, ...]:
    return (
        f"Allowed: the branch {branch}, and names that start with {branch}-",
        f"Do this instead: git push origin HEAD:refs/heads/{branch}",
        "To bring it into another branch, open a pull request with the create_pull_request tool.",
    )
