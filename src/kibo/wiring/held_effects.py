"""What of a run's effects waits for somebody, beside what the scheduler says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kibo.model.errors import BranchUnknown
from kibo.model.ids import RunId
from kibo.schedule.explaining import Explanation
from kibo.schedule.placement import Reason
from kibo.schedule.submitting import Submission
from kibo.wiring.run_branches import branch_of

if TYPE_CHECKING:
    from kibo.wiring.records import Records

_WAITING: Final = {
    "held": "is held until what the attempt does is committed",
    "asking": "waits for somebody to `kibo approve` it",
    "in_doubt": "may have happened or not; `kibo effects resolve` says",
}


def with_effects(found: Explanation, runs: Submission, records: Records) -> Explanation:
    """Adds to why a run is where it is what it has asked the outside world for, and waits for."""
    if found.verdict != "here":
        return found
    return replace(found, reasons=(*found.reasons, *_effects(found.run, runs, records)))


def _effects(run: RunId, runs: Submission, records: Records) -> Iterator[Reason]:
    origin = runs.origin(runs.get(run))
    try:
        tree = records.history.tree(branch_of(origin.id))
    except BranchUnknown:
        return  # its first attempt has not come so far
    for branch in tree:
        for effect in records.ledger.listed(branch.id) if branch.closed_s is None else ():
            if effect.branch == branch.id and (waits := _WAITING.get(effect.state)):
                yield Reason(effect.state, effect.id, f"{effect.method} {effect.url} {waits}")
