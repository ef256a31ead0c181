"""Has what a commit released sent where nobody runs the branch: by a gateway that is started for it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from kibo.branch.records import Committed
from kibo.branch.releasing import tell
from kibo.model.asker import Asker
from kibo.model.limits import SETTLED_S
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import way_out
from kibo.wiring.records import Records


def deliver(records: Records, done: Committed) -> Committed:
    """Has what a commit has released sent, and waits for the outcome for a while.

    Args:
        records: Of the state directory.
        done: The commit, which has happened.

    Returns:
        It, with what has become of its effects. One that is released still is sent by whichever gateway comes next:
        one that has the value of a secret that this process does not have, say.
    """
    if not any(effect.state == "released" for effect in done.effects):
        return done
    egress = way_out(records.home)
    try:
        parent = records.history.get(done.parent)
        if (told := tell(egress, done, Asker(parent.id, parent.tree))) is not None:
            with told, suppress(TimeoutError):
                run(Blocking().ready((told.fileno(),), timeout_s=SETTLED_S))
    finally:
        egress.close()
    return replace(done, effects=tuple(records.ledger.named(*(effect.id for effect in done.effects))))
