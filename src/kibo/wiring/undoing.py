"""Undoes what a program that is gone has left to undo: by fresh instances, over the files of its branches."""

from __future__ import annotations

from contextlib import ExitStack

from kibo.box.define import Box
from kibo.branch.branch import Branch
from kibo.branch.records import Undone
from kibo.effects.calls import MAY_BE_UNDONE
from kibo.effects.records import Exact
from kibo.model.errors import WrongState
from kibo.model.ids import EffectId
from kibo.runtime.waiting import run
from kibo.wiring import runtime
from kibo.wiring.branches import checkout
from kibo.wiring.records import Records


def undo(ref: str, *boxes: Box) -> Undone:
    """Undoes calls that are to be undone, the newest first, each at most once.

    Args:
        ref: An effect, or a branch for all that was done in it and below it.
        boxes: The definitions of the instances in those branches, as they were.

    Returns:
        What came of each. One that may be undone already is left.

    Raises:
        EffectUnknown, BranchUnknown: There is none such.
        WrongState: Nothing of it is to be undone, or the files of its branch are gone.
        UnmetNeed: A definition is missing; ``details["labels"]`` says of what. Nothing was undone.
    """
    records = runtime().records()
    owed = _owed(records, ref)
    with ExitStack() as ending:
        opened: dict[str, Branch] = {}
        for where in dict.fromkeys(exact.effect.branch for exact in owed):
            opened[where] = checkout(where, *boxes, name="undoing")
            ending.callback(opened[where].abort)
        for exact in owed:
            if not exact.effect.reason.endswith(MAY_BE_UNDONE):
                run(opened[exact.effect.branch]._running.undo(exact))
    return Undone(tuple(records.ledger.named(*(exact.effect.id for exact in owed))))


def _owed(records: Records, ref: str) -> list[Exact]:
    """Lists what is to be undone, the newest first."""
    calls = records.recorder.calls
    if ref.startswith(EffectId.prefix):
        found = [records.ledger.get(ref)]
    else:
        branch = records.history.get(ref)
        below, parents = [str(branch.id)], {each.id: each.parent for each in records.history.tree(branch.id)}
        for each in parents:  # the oldest first: parents come before their children
            if parents[each] in below:
                below.append(each)
        found = calls.to_undo(below)
    owed = [exact for exact in found if exact.effect.state == "not_undone"]
    if not owed:
        raise WrongState(
            f"nothing of {ref} is to be undone",
            hint="`kibo effects` lists what is: not_undone.",
            details={"ref": ref, "states": sorted({exact.effect.state for exact in found})},
        )
    return owed
