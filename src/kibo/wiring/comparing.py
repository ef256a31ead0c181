"""Comparing worlds that the history of this state directory has; loaded by the first that does."""

from __future__ import annotations

from typing import Any

from kibo.branch.comparing import Comparison
from kibo.branch.face import BranchFace
from kibo.branch.records import SnapshotRecord
from kibo.wiring import runtime


def compare(
    a: str | BranchFace[Any] | SnapshotRecord, b: str | BranchFace[Any] | SnapshotRecord | None = None
) -> Comparison:
    """Tells what differs between two branches or snapshots: files, context, messages, effects and labels.

    Of a branch, files are compared as they were sealed last, by a fork, a commit or `Branch.snapshot`; all else is
    compared as it is now.

    Args:
        a: Where to begin: a branch, a snapshot, the id of either or the beginning of it, a label, or a branch's name.
        b: What it became. By default, what `a` became since the start of its tree.

    Returns:
        What only one of the two has, and what both have and has changed. Cost is in that, and in how deep they are.

    Raises:
        SnapshotUnknown: There is no such one, or there are several; ``details["candidates"]`` names these.
        WrongState: The files of one are gone.
    """
    return runtime().records().standing().compare(_ref(a), None if b is None else _ref(b))


def _ref(named: str | BranchFace[Any] | SnapshotRecord) -> str:
    return named if isinstance(named, str) else named.id
