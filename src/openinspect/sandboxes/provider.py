"""The seam between the control plane and whatever runs sandboxes.

A provider runs *boxes*. A box is one life of a sandbox (one row of ``sandboxes``); a *disk* is what it leaves behind for the next one of the
same session: the workspace and the agent's home.

States of a box, as ``status`` tells them
    starting/running → exited (with a code and the last lines of its log) → gone (``release`` was called, or the host forgot it)

Rules
    - ``create`` may be repeated with the same spec after a crash: it finds what it began and goes on. It returns as soon as the box's
      processes have been started (at most 20 s); that the runtime inside is alive is told by its ``Hello`` on the bridge, not here.
      A ``create`` that raised has left nothing running, and may be repeated too.
    - A box outlives the server. After a restart ``status(handle)`` finds it again by its handle, and never takes another process for it.
    - ``stop`` ends every process in the box within ``grace`` seconds plus one, and keeps the disk. Stopping what is not there is no error.
    - ``release`` removes all that the box had (processes, mounts, cgroups, folders) but not its disk; ``delete_disk`` removes that.
      Both may be repeated.
    - ``spooled`` gives what a box that has ended said and nobody counted: between its end and its ``release``, also after a crash of the
      machine. What it gives is a sandbox's word, whatever a provider reads it from: bounded in size, and no more to be trusted than what
      comes over the bridge.
    - ``list_boxes`` names every box that exists on the host, so that the janitor can release those that no row knows.
    - A provider never falls back to a weaker isolation than it names. What the host can't do is a ``Finding`` and a
      ``ProviderUnavailable``, with a remedy.

What a box looks like from inside
    ``/workspace`` and ``/home/agent``   on the disk, owned by uid and gid 1000 (the agent's); a new home is a copy of the toolbox's
                                         ``opencode-home``, where it has one
    ``/tmp`` and ``/var/tmp``            on the disk too; ``/tmp`` is empty in each new box
    ``/run``, ``/etc``, ``/var``         of the box alone, writable by uid 0 only
    ``/var/lib/openinspect``             the runtime's reserved space: uid 0, mode 0700, not counted against the disk's quota
    ``/run/openinspect/runtime.json``    ``RuntimeConfig``, uid 0, mode 0600
    ``/opt/openinspect/door``            read-only; the gateway's ``gateway.sock`` in it. The only way out: there is no route
    ``/opt/openinspect/toolbox``         read-only: ``bin/node``, ``bin/opencode`` …
    ``/opt/openinspect/{python,site,lib}`` read-only: the runtime's interpreter, packages and code
    ``/etc/gitconfig``                   writable by uid 0 only
    the runtime                          ``python -m openinspect.runtime``, uid 0 in the box, pid namespace's second process
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from openinspect.protocol.config import RuntimeConfig

Handle = dict[str, Any]
"""The provider's own words for finding a box again; stored with the row, JSON only."""


MOST_SPOOLED = 1_000


class Limits(BaseModel):
    """Of one box. None: not limited."""

    model_config = ConfigDict(frozen=True)

    memory_mib: int | None = 4096
    cpu_cores: float | None = 2.0
    processes: int | None = 1024
    disk_mib: int | None = 8192


class BoxSpec(BaseModel):
    model_config = ConfigDict(frozen=True)

    box_id: str
    """The sandbox row's id."""
    disk_id: str
    """The session's id."""
    runtime: RuntimeConfig
    limits: Limits = Limits()


class BoxStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    state: Literal["running", "exited", "gone"]
    exit_code: int | None = None
    reason: str = ""
    """Such as "killed: out of memory (limit 4096 MiB)", where it is known."""
    log_tail: str = ""
    """At most 16 KiB of what the runtime printed last."""


class Spooled(NamedTuple):
    """Records of a box's spool, each the bytes of a ``protocol.frames.SandboxRecord``."""

    first: int
    """Number of the first record; the others follow without a gap."""
    records: list[bytes]


class Finding(BaseModel):
    """One line of ``openinspect doctor``."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""


class ProviderError(Exception):
    """Something went wrong in a provider. ``reason`` and ``remedy`` are for the person who waits for the sandbox."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}. {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class ProviderUnavailable(ProviderError):
    """The host can't run boxes of this provider as it is; trying again changes nothing."""


class SandboxProvider(Protocol):
    name: str

    async def check(self) -> list[Finding]:
        """What the host can and can't do, each with a remedy. Takes at most 10 s."""
        ...

    async def create(self, spec: BoxSpec) -> Handle:
        """Start a box, or find the one that was started. Raises ``ProviderError``."""
        ...

    async def status(self, handle: Handle) -> BoxStatus: ...

    async def stop(self, handle: Handle, grace: float = 5.0) -> None: ...

    async def spooled(self, box_id: str, handle: Handle | None, after: int) -> Spooled:
        """Some of the records that follow number ``after``, at most ``MOST_SPOOLED`` and a few MiB; none when there are no more, or no such box."""
        ...

    async def release(self, box_id: str, handle: Handle | None) -> None: ...

    async def delete_disk(self, disk_id: str) -> None: ...

    async def list_boxes(self) -> list[str]: ...

    async def find(self, box_id: str) -> Handle:
        """A handle of a box that ``list_boxes`` names, by what the host knows of it: for when its row can't be read, or has none."""
        ...

    async def list_disks(self) -> list[str]: ...
