"""The trees of a state directory as lines that people read from the root down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kibo.branch.history import History
from kibo.branch.records import BranchRecord
from kibo.model.errors import SnapshotUnknown
from kibo.model.ids import BranchId, SnapshotId

#: How long a tree is listed after its end, in seconds.
RECENT_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Line:
    """One branch.

    Attributes:
        branch: The branch.
        depth: How many branches are above it.
        labels: Names of snapshots that were made in it, and what each names.
        process: The living process that runs it, or None.
        hidden: How many of its children, with all below them, were aborted and are not listed.
    """

    branch: BranchRecord
    depth: int
    labels: Mapping[str, SnapshotId]
    process: int | None
    hidden: int = 0


def listed(
    history: History, processes: Mapping[str, int], *, ref: str | None = None, everything: bool = False
) -> list[Line]:
    """Lists trees: open ones, and those that ended within the last day.

    Args:
        history: Where they are recorded.
        processes: Which branches run where; see `owning.running`.
        ref: A branch, to list its tree alone, and all of it.
        everything: Whether to list older trees and aborted branches, too.

    Returns:
        Trees by their age, the oldest first; in each, a branch before what was forked from it, oldest first.

    Raises:
        BranchUnknown: There is no such branch, or several.
    """
    whole = everything or ref is not None
    wanted = None if ref is None else history.get(ref).tree
    roots = history.roots()
    if wanted is not None:
        trees = [wanted]
    else:
        now = time.time()
        trees = list(dict.fromkeys(root.tree for root in roots if everything or _recent(root, now)))
    found: list[Line] = []
    for tree in trees:
        # The root itself may have been collected, while branches that were checked out of it live.
        known = history.tree(next(root.id for root in roots if root.tree == tree))
        found += arranged(known, _labels(history, tree, known), processes, whole=whole)
    return found


def _recent(root: BranchRecord, now: float) -> bool:
    return root.closed_s is None or now - root.closed_s < RECENT_S


def _labels(
    history: History, tree: str, known: Iterable[BranchRecord]
) -> dict[BranchId, dict[str, SnapshotId]]:
    """Finds by which branch each label is to be shown: the one that its snapshot was made in, or the first."""
    branches = [branch.id for branch in known]
    found: dict[BranchId, dict[str, SnapshotId]] = {}
    for label, snapshot in history.labels(tree).items():
        try:
            made_in = history.get_snapshot(snapshot).branch
        except SnapshotUnknown:
            continue  # collected just now
        found.setdefault(made_in if made_in in branches else branches[0], {})[label] = snapshot
    return found


def arranged(
    branches: Iterable[BranchRecord],
    labels: Mapping[BranchId, Mapping[str, SnapshotId]],
    processes: Mapping[str, int],
    *,
    whole: bool,
) -> list[Line]:
    """Puts the branches of one tree in order. Decides, and reads nothing.

    Args:
        branches: All of the tree, oldest first.
        labels: What to show by which branch.
        processes: Which branches run where; what was forked from one runs there too.
        whole: Whether to list aborted branches that nothing living or named lies below.
    """
    known = {branch.id: branch for branch in branches}
    children: dict[BranchId | None, list[BranchRecord]] = {}
    for branch in known.values():
        children.setdefault(branch.parent if branch.parent in known else None, []).append(branch)
    wanted = set(known) if whole else _wanted(known, labels)
    found: list[Line] = []
    pending: list[tuple[BranchRecord, int, int | None]] = [
        (each, 0, None) for each in children.get(None, [])[::-1]
    ]
    while pending:
        branch, depth, process = pending.pop()
        living = branch.status in ("open", "stale")
        process = processes.get(branch.id, process) if living else None
        below = children.get(branch.id, [])
        shown = [child for child in below if child.id in wanted]
        hidden = len(below) - len(shown)
        # A stale one is stopped, whoever forked it.
        runs = process if branch.status == "open" else None
        found.append(Line(branch, depth, labels.get(branch.id, {}), runs, hidden))
        pending += [(child, depth + 1, process) for child in shown[::-1]]
    return found


def _wanted(
    known: Mapping[BranchId, BranchRecord], labels: Mapping[BranchId, Mapping[str, SnapshotId]]
) -> set[BranchId]:
    wanted: set[BranchId] = set()
    for branch in known.values():
        if branch.status == "aborted" and branch.parent is not None and branch.id not in labels:
            continue
        at: BranchId | None = branch.id
        while at is not None and at in known and at not in wanted:
            wanted.add(at)
            at = known[at].parent
    return wanted
