"""What the routes work with; put together by ``app``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.blobs.store import BlobStore
from openinspect.forges.local.forge import LocalForge
from openinspect.gateway.bridge import Bridge
from openinspect.live.hub import Hub, Reader
from openinspect.live.places import StreamPlaces
from openinspect.live.presence import PresenceBoard
from openinspect.sessions.keeper import Keeper
from openinspect.sessions.log import Journal
from openinspect.settings import Settings


@dataclass(frozen=True)
class Services:
    settings: Settings
    engine: AsyncEngine
    reader: AsyncEngine
    """The same pool without transactions, for reading."""
    journal: Journal
    hub: Hub
    read: Reader
    presence: PresenceBoard
    bridge: Bridge
    keeper: Keeper
    forge: LocalForge
    blobs: BlobStore
    defer: Callable[[str, str], Awaitable[None]]
    """Defers a job by its name for the id that it is about."""
    watch_stop: Callable[[str], None]
    """Sees to it that a turn which was asked to stop has ended in time."""
    places: StreamPlaces = field(default_factory=StreamPlaces)
