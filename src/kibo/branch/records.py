"""What history knows of branches and snapshots, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kibo.effects.records import Effect
from kibo.model.errors import InvalidInput, StoreDamaged
from kibo.model.ids import BranchId, SnapshotId
from kibo.model.limits import MAX_WORLD_BYTES

#: ``stale`` is never stored: a branch is stale while it is open and its parent is no longer where it was forked.
Status = Literal["open", "committed", "aborted", "stale"]

#: How a snapshot came to be: a branch's first, a turn of it, a three-way merge, an overwriting commit, an import.
Kind = Literal["root", "turn", "merge", "overwrite", "import"]

#: ``thinned``: retention let its files go. ``lost``: a power cut took them. Both can be read, and not started from.
State = Literal["whole", "thinned", "lost", "doomed"]

#: What a snapshot's files and instances are, as JSON; its meaning is that of the parts above.
World = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BranchRecord:
    """One line of execution, as it was when it was read.

    Attributes:
        id: Its name for ever.
        tree: The root branch that it descends from; its own id for a root.
        parent: The branch that it commits into, or None.
        name: What its maker calls it; may be empty, and need not be unique.
        goal: What it is for; of a root.
        status: Whether it can be changed, and whether it can be committed as it is.
        epoch: The newest claim on it.
        head: Its newest snapshot.
        base: The parent's head when it was forked, or None.
        seq: The last number of its log.
        unsealed: Entries written since its head.
        result: What committing it made the parent's head, or None.
        created_s: When it was made, in seconds since 1970.
        closed_s: When it was committed or aborted, or None.
    """

    id: BranchId
    tree: BranchId
    parent: BranchId | None
    name: str
    goal: str
    status: Status
    epoch: int
    head: SnapshotId
    base: SnapshotId | None
    seq: int
    unsealed: int
    result: SnapshotId | None
    created_s: float
    closed_s: float | None


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """One sealed point. Nothing of it ever changes, except that retention may let its world go.

    Attributes:
        id: Its name for ever.
        tree: The tree that it is in.
        branch: The branch that it was made in.
        kind: How it came to be.
        state: Whether its world can be started from.
        parent: The snapshot before it, or None for a root. Its log goes on from there.
        other: Of a merge: theirs; of an overwrite: what was overwritten. May have been collected since.
        world: What its files and instances are, or None where retention let it go.
        seq: The last number of its log.
        entries: How many of those it sealed itself.
        created_s: When, in seconds since 1970.
        labels: Its names in its tree.
    """

    id: SnapshotId
    tree: BranchId
    branch: BranchId
    kind: Kind
    state: State
    parent: SnapshotId | None
    other: SnapshotId | None
    world: dict[str, Any] | None
    seq: int
    entries: int
    created_s: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Undone:
    """What has come of the actions that a branch that ended had done, and that can be undone.

    Attributes:
        effects: Each call, the newest first: undone; not undone, with the reason; or in doubt whether it has happened.
    """

    effects: tuple[Effect, ...] = ()

    @property
    def left(self) -> tuple[Effect, ...]:
        """Those that are not undone; `kibo effects` has them until somebody says that they are."""
        over = ("undone", "not_done", "failed")
        return tuple(each for each in self.effects if each.state not in over)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did.

    Attributes:
        branch: The branch that was committed.
        parent: The branch that it was committed into.
        head: The parent's head now.
        before: The parent's head before; of an overwrite, what was overwritten.
        fast_forward: Whether the parent had not moved.
        effects: What the branch was holding, in order, as it stood when this was told: released where the parent is a
            root, and with its outcome where that was known in time, or asking where it waits for a person; held by the
            parent otherwise.
        undone: What branches had done that became stale by it, and what came of undoing that.
    """

    branch: BranchId
    parent: BranchId
    head: SnapshotId
    before: SnapshotId
    fast_forward: bool
    effects: tuple[Effect, ...] = ()
    undone: Undone = Undone()


def written(world: World) -> str:
    """Returns a world as the one text that equal worlds have.

    Raises:
        InvalidInput: It holds something that JSON cannot, or too much.
    """
    try:
        text = json.dumps(world, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"a world is not a value of JSON: {error}", hint="Use str, int, float, bool, None, list and dict."
        ) from error
    if len(text) > MAX_WORLD_BYTES:
        raise InvalidInput(
            f"a world of {len(text)} characters is larger than a snapshot holds",
            hint="Flatten its chains of deltas: a world names layers, it does not hold them.",
            details={"characters": len(text), "limit_bytes": MAX_WORLD_BYTES},
        )
    return text


def read_world(snapshot: str, text: str) -> dict[str, Any]:
    """Returns the world that a snapshot's row holds.

    Raises:
        StoreDamaged: It is none.
    """
    try:
        world = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise unreadable(snapshot, ValueError(error)) from error
    if not isinstance(world, dict):
        raise unreadable(snapshot, ValueError(f"it begins {text[:40]!r}"))
    return world


def unreadable(snapshot: str, error: ValueError) -> StoreDamaged:
    """Makes the error for a snapshot whose world is none."""
    return StoreDamaged(
        f"snapshot {snapshot} cannot be read: {error}",
        hint="The history is damaged there, or was written by another version of Kibo: nothing is collected from disk "
        "until that version has, or until its branch is aborted and collected.",
        details={"table": "snapshots", "row": {"id": snapshot}, "snapshot": snapshot},
    )
