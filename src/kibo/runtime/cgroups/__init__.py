"""Limits of memory, processor time and process count, by the kernel's control groups.

One port, three adapters: `v2` (the unified hierarchy), `v1` (one hierarchy a controller) and `none` (a host
that offers this user neither, where a limit that was asked for is refused). Groups are named
``kibo-<session>/<instance>`` below the group that the process is in already (v1), or the nearest above it
that hands its controllers on (v2), so that what limits Kibo's user limits every box, and a keeper can remove
a whole session's groups by their names alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kibo.runtime.cgroups.files import Files, KernelFiles, remove_tree
from kibo.runtime.cgroups.none import NoCgroups
from kibo.runtime.cgroups.port import CgroupHandle, CgroupLimits, Cgroups
from kibo.runtime.cgroups.v1 import V1Cgroups
from kibo.runtime.cgroups.v2 import V2Cgroups

__all__ = ["PLACES_FILE", "CgroupHandle", "CgroupLimits", "Cgroups", "open_cgroups", "remove_places"]

#: In a session's directory: where its control groups are.
PLACES_FILE: Final = "cgroups.json"


def open_cgroups(session: str, *, files: Files | None = None) -> Cgroups:
    """Chooses the adapter for this host and user. Makes nothing yet; reads two files of ``/proc``.

    Args:
        session: Names this session's groups; letters, digits, ``-`` and ``_``.
        files: Where the kernel's files are; a test may bring its own.

    Returns:
        v2 where it has the memory controller, else v1 where this user may make groups, else none.
    """
    files = files or KernelFiles()
    unified, split = V2Cgroups.find(session, files), V1Cgroups.find(session, files)
    for adapter in (unified, split):
        if adapter is not None and adapter.available()["memory"]:
            return adapter
    for adapter in (unified, split):
        if adapter is not None and any(adapter.available().values()):
            return adapter
    return NoCgroups(split or unified)


def remove_places(places: Sequence[str]) -> bool:
    """Removes a session's empty groups where `Cgroups.places` said they are. Returns whether none is left."""
    left = [place for place in places if not remove_tree(KernelFiles(), place)]
    return not left
