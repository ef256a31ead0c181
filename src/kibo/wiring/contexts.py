"""Contexts of branches that this process does not run, and of snapshots; loaded by the first that asks for one."""

from __future__ import annotations

from kibo.branch.history import History
from kibo.context.context import Context, Place
from kibo.model.errors import BranchUnknown
from kibo.model.ids import SnapshotId
from kibo.wiring import runtime


def context_of(ref: str) -> Context:
    """Finds the context of a branch or a snapshot, to be read.

    Args:
        ref: A branch, by its id, its name or the beginning of its id: all that has been written there up to now, in
            whatever process. Or a snapshot, by its id, its label or the beginning of its id.

    Raises:
        BranchUnknown, SnapshotUnknown: There is none such, or several; ``details["candidates"]`` names these.
        StoreUnavailable: The state directory cannot be opened.
    """
    return readable(runtime().records().history, ref)


def readable(history: History, ref: str) -> Context:
    """Finds a context in a history; see `context_of`."""
    if not ref.startswith(SnapshotId.prefix):
        try:
            return Context(Place(history.log, history.get(ref).id))
        except BranchUnknown as error:
            if error.details.get("candidates"):
                raise
    return Context(Place(history.log, history.find_snapshot(ref).id))
