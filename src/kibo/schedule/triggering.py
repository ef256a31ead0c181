"""Triggers, as they start runs: what is due decided purely, and done in one transaction with the record of it.

Any number of processes may do so at once. The key of a run is its trigger's name and what it is started by; so that a
clock that is set back, or a log that is read over, starts nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from kibo.hub.entries import Sent, decoded
from kibo.model.clock import Moment, moment
from kibo.model.errors import QueueFull, RunInvalid, RunRepeated, SnapshotUnknown, StoreDamaged
from kibo.model.ids import MessageId
from kibo.model.limits import CLOCK_LOOK_S, MAX_HEARD, MAX_ROUND, ORDER_AGAIN_S
from kibo.model.topics import matches
from kibo.schedule import wanted_rows
from kibo.schedule.request import Request
from kibo.schedule.submitting import Submission
from kibo.schedule.wanted import Trigger, read_trigger, told
from kibo.schedule.wanted_rows import Ahead, WantedRow
from kibo.schedule.work import read_work
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.fencing import ABORTED
from kibo.store.log import Entry, following_in, parting_in

_log: Final = logging.getLogger(__name__)
#: How far clocks of machines may differ. A tick that is settled and lies further ahead was settled by a wrong one.
SKEW_S: Final = 60.0
_FULL: Final = "as many runs of its tenant wait as may; it waits, too"


class Settle(NamedTuple):
    """What a trigger has to note.

    Attributes:
        name: Whose.
        done: Up to which second all is settled then.
        tick: For which a run is to be started; None for none.
    """

    name: str
    done: int
    tick: int | None


def due(triggers: Iterable[tuple[Trigger, int]], now_s: float) -> tuple[Settle, ...]:
    """Decides which triggers start a run now. Where all is settled that is none. Pure.

    Of ticks that were missed the last one counts, and none where that is later than the trigger lets it be.

    Args:
        triggers: Each with the second up to which it is settled.
        now_s: The time in seconds since 1970.

    Returns:
        What to note, in order of name.
    """
    found: list[Settle] = []
    for one, done in triggers:
        if done > now_s + SKEW_S:
            found.append(Settle(one.name, int(now_s), None))  # the clock was wrong, or is
            continue
        tick = one.schedule.latest(now_s)
        if tick is not None and tick > done:
            started = one.late_s is None or now_s - tick <= one.late_s
            found.append(Settle(one.name, tick, tick if started else None))
    return tuple(sorted(found))


class Triggers:
    """The triggers of one store. Every call raises `StoreUnavailable` and `HostDiskFull` as the store does.

    Args:
        store: The store.
        submission: Where runs are submitted.
        now: What the time is.
    """

    def __init__(self, store: Store, submission: Submission, now: Callable[[], Moment] = moment) -> None:
        self._store: Final = store
        self._submission: Final = submission
        self._now: Final = now
        self._read: dict[str, tuple[tuple[bytes, bytes], Trigger]] = {}
        self._tidied = False

    def step(self) -> float:
        """Starts all that is due. Returns in how many seconds to look again, unless something is said before."""
        rows = [row for row in self._store.read(wanted_rows.read_all) if row.kind == Trigger.kind]
        triggers = self._triggers(rows)
        timed = [(one, row.done) for row, one in triggers if one.cron]
        looked_s = self._now().at_s
        started = waits = False
        for settle in due(timed, looked_s):
            made = self._store.write(lambda tx, name=settle.name: self._tick(tx, name))  # type: ignore[misc]
            started, waits = started or made is True, waits or made is None
        heard, again, full = self._hear() if any(one.topic for _, one in triggers) else (False, False, False)
        if started or heard:
            crash.point("trigger.before_ring")
            self._submission.ring()
        if again:
            return 0.0
        # From when it was looked on: what has become due since then is next.
        nexts = [tick for one, _ in timed if (tick := one.schedule.after(looked_s)) is not None]
        left_s = min(nexts, default=float("inf")) - self._now().at_s
        return max(0.0, min(left_s, ORDER_AGAIN_S if waits or full else CLOCK_LOOK_S))

    def _triggers(self, rows: Sequence[WantedRow]) -> list[tuple[WantedRow, Trigger]]:
        """Reads triggers; one that is damaged is said, and holds no other up."""
        known, self._read = self._read, {}
        found = []
        for row in rows:
            spec, one = known.get(row.name, (None, None))
            if one is None or spec != (row.spec, row.work):
                try:
                    one = read_trigger(row.name, row.spec, row.work)
                except StoreDamaged as error:
                    _log.error("a trigger starts no runs: %s", error.message)
                    continue
            self._read[row.name] = (row.spec, row.work), one
            found.append((row, one))
        return found

    # -- times

    def _tick(self, tx: Transaction, name: str) -> bool | None:
        """Does what one trigger is due for. Returns whether it has started a run; None where there is no room."""
        wanted_rows.lock(tx)
        row = wanted_rows.find(tx, Trigger.kind, name)
        if row is None:
            return False
        one = read_trigger(row.name, row.spec, row.work)
        settle = next(iter(due([(one, row.done)], self._now().at_s)), None) if one.cron else None
        if settle is None:
            return False
        settled = row._replace(done=settle.done)
        if settle.tick is not None:
            started = self._started(tx, settled, one.asked(told(settle.tick)))
            if started is None:
                wanted_rows.settle(tx, row._replace(problem=_FULL))
                return None
            settled = started
        wanted_rows.settle(tx, settled)
        crash.point("trigger.before_commit")
        return settle.tick is not None

    def _started(self, tx: Transaction, row: WantedRow, request: Request) -> WantedRow | None:
        """Submits a run. Returns the row as it is then; None where there is no room for it yet."""
        try:
            return row._replace(run=self._submission.enter(tx, request, self._now()), problem="")
        except RunRepeated as error:
            return row._replace(problem=error.message)
        except QueueFull:
            return None

    # -- topics

    def _hear(self) -> tuple[bool, bool, bool]:
        """Listens in all roots. Returns whether any had something new, and as `_hear_some`."""
        if not self._tidied:
            self._store.write(wanted_rows.forget_gone)
            self._tidied = True
        if not self._store.read(lambda tx: wanted_rows.ahead(tx, 1)):
            return False, False, False
        return True, *self._store.write(self._hear_some)

    def _hear_some(self, tx: Transaction) -> tuple[bool, bool]:
        """Starts runs for what was said, as much as fits into one transaction.

        Returns:
            Whether there is more, and whether something waits for room.
        """
        wanted_rows.lock(tx)
        rows = {row.name: row for row in wanted_rows.read_all(tx) if row.kind == Trigger.kind}
        before = dict(rows)
        listening = [one for _, one in self._triggers(list(rows.values())) if one.topic]
        roots = wanted_rows.ahead(tx, MAX_ROUND)
        left, full = MAX_HEARD, False
        for root in roots:
            if not left:
                break
            found = [] if root.status == ABORTED else self._unheard(tx, root, left)
            left -= len(found)
            seq = found[-1].seq if found and not left else root.tail
            for entry in found:
                if not self._hear_entry(tx, root, entry, listening, rows):
                    seq, full = entry.seq - 1, True
                    break
            wanted_rows.heard_to(tx, root, seq)
        for row in rows.values():
            if row != before[row.name]:
                wanted_rows.settle(tx, row)
        crash.point("hearing.before_commit")
        return not left or (len(roots) == MAX_ROUND and not full), full

    def _hear_entry(
        self, tx: Transaction, root: Ahead, entry: Entry, listening: list[Trigger], rows: dict[str, WantedRow]
    ) -> bool:
        """Starts the runs of all who hear of one entry, and puts into `rows` what has become of them.

        Returns:
            Whether there was room for all; those that there was room for are not started again.
        """
        sent, room = _event(entry), True
        if sent is None:
            return True
        for one in listening:
            row = rows[one.name]
            if _hears(one, row, root, entry, sent):
                after = self._heard(tx, row, one, sent)
                rows[one.name] = row._replace(problem=_FULL) if after is None else after
                room = room and after is not None
        return room

    def _unheard(self, tx: Transaction, root: Ahead, most: int) -> list[Entry]:
        seq = root.seq
        if root.known is not None and root.known != root.head:
            # What was heard may have been left behind by a commit that overwrites: from where the two lines part.
            try:
                seq = max(root.born, min(seq, parting_in(tx, root.known, root.root)))
            except SnapshotUnknown:
                seq = root.born
        return following_in(tx, root.root, seq, most, ("hub.sent",))

    def _heard(self, tx: Transaction, row: WantedRow, one: Trigger, sent: Sent) -> WantedRow | None:
        """Starts a run for one event. Returns the row as it is then; None where there is no room for it yet."""
        try:
            return self._started(tx, row, one.asked(sent.id, _work(one, sent)))
        except RunInvalid as error:
            _log.warning("trigger %s starts no run for %s: %s", one.name, sent.id, error.message)
            return row._replace(problem=f"{sent.id}: {error.message}")


def _event(entry: Entry) -> Sent | None:
    """Returns an event; None for what is none: a log may come from elsewhere."""
    try:
        sent: Sent = decoded(entry)
        MessageId.parse(sent.id)
    except (StoreDamaged, ValueError):
        _log.warning("entry %s of the log is no message, and starts no run", entry.position)
        return None
    return sent if sent.event else None


def _hears(one: Trigger, row: WantedRow, root: Ahead, entry: Entry, sent: Sent) -> bool:
    return (
        entry.position > row.done
        and matches(one.topic, sent.event)
        and (not one.branch or one.branch in (root.root, root.name))
    )


def _work(one: Trigger, sent: Sent) -> bytes:
    if not one.message:
        return one.request.work
    work = read_work(one.name, one.request.work)
    body: Any = sent.body if sent.raw is None else sent.raw
    return msgspec.structs.replace(work, named={**work.named, one.message: body}).packed()
