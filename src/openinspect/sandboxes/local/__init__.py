"""Boxes on this machine: bubblewrap in a user namespace, held by a small process that outlives the server.

``provider``    the contract's methods: folders, locks, starting and finding holders
``plan``        what the holder is told: one JSON file, written by the provider
``holder``      the process that owns a box: namespaces, mounts, limits, the runtime's log and its end
``rootfs``      the tree that a box sees
``etc``         its ``/etc``
``disk``        what a session keeps between boxes
``image``       the ext4 images that have a size
``cgroups``     limits on memory, cpu and processes, versions 1 and 2
``counts``      what the kernel counts by user
``seccomp``     the system calls that nothing in a box may make
``kernel``      the system calls that Python's library lacks
``processes``   naming a process so that another one is never taken for it
``checks``      what ``openinspect doctor`` says about this host

Everything but ``provider`` and ``checks`` runs in the holder and imports the standard library alone, so that it starts in milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .provider import LocalProvider

__all__ = ["LocalProvider"]


def __getattr__(name: str) -> Any:
    # Lazy: the holder imports this package too and must not pay for pydantic.
    if name == "LocalProvider":
        from .provider import LocalProvider

        return LocalProvider
    raise AttributeError(name)
