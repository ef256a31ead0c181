"""Why a run is where it is: what the scheduler says, and what of its effects waits for somebody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kibo.model.clock import moment
from kibo.model.errors import BranchUnknown
from kibo.model.ids import RunId
from kibo.schedule import explaining
from kibo.schedule.explaining import Explanation
from kibo.schedule.placement import Reason
from kibo.schedule.survey import Surveyor
from kibo.wiring.run_branches import branch_of, origin_of

if TYPE_CHECKING:
    from kibo.wiring.branches import Records
    from kibo.wiring.scheduling import Scheduling

_WAITING: Final = {
    "held": "is held until what the attempt does is committed",
    "asking": "waits for somebody to `kibo approve` it",
    "in_doubt": "may have happened or not; `kibo effects resolve` says",
}


def explain(scheduling: Scheduling, records: Records, run: RunId) -> Explanation:
    """Explains a run; see `kibo.explain`."""
    store = records.store
    found = explaining.read(store, Surveyor(store), run, moment(), scheduling.dead())
    if found.verdict != "here":
        return found
    return replace(found, reasons=(*found.reasons, *_effects(scheduling, records, run)))


def _effects(scheduling: Scheduling, records: Records, run: RunId) -> Iterator[Reason]:
    """What its attempt has asked the outside world for, and waits for."""
    origin = origin_of(scheduling.runs, scheduling.runs.get(run))
    try:
        tree = records.history.tree(branch_of(origin.id))
    except BranchUnknown:
        return  # its first attempt has not come so far
    for branch in tree:
        for effect in records.ledger.listed(branch.id) if branch.status == "open" else ():
            if effect.branch == branch.id and (waits := _WAITING.get(effect.state)):
                yield Reason(effect.state, effect.id, f"{effect.method} {effect.url} {waits}")
