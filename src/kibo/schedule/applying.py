"""What is wanted, as those see it who say it: applied all at once or not at all, and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from kibo.model.clock import Moment, moment
from kibo.model.errors import ManifestInvalid, StoreDamaged
from kibo.model.limits import MAX_WANTED
from kibo.schedule import rows, wanted_rows
from kibo.schedule.wanted import Trigger, read_trigger
from kibo.schedule.wanted_rows import WantedRow
from kibo.store import crash
from kibo.store.database import Store, Transaction


class Change(NamedTuple):
    """What becomes of one thing.

    Attributes:
        kind: What it is.
        name: Its name.
        what: `created`, `configured` where it was wanted otherwise, `unchanged`, or `pruned`.
    """

    kind: str
    name: str
    what: Literal["created", "configured", "unchanged", "pruned"]


class Standing(NamedTuple):
    """One trigger that is wanted, and what has become of it.

    Attributes:
        trigger: It.
        applied_s: Since when, in seconds since 1970.
        run: The newest run that it has started; None for none yet.
        state: How that stands; empty for none.
        problem: Why it could not start the newest; empty where it could.
    """

    trigger: Trigger
    applied_s: float
    run: str | None
    state: str
    problem: str


def changes(given: Iterable[Trigger], stored: Iterable[WantedRow], *, prune: bool) -> tuple[Change, ...]:
    """Decides what applying something comes to, in order of kind and name. Pure.

    Args:
        given: What is to be wanted.
        stored: What is.
        prune: Whether all else is wanted no more.
    """
    there = {(row.kind, row.name): row for row in stored}
    found: list[Change] = []
    for one in given:
        row = there.pop((one.kind, one.name), None)
        same = row is not None and (row.spec, row.work) == (one.spec(), one.request.work)
        found.append(
            Change(one.kind, one.name, "created" if row is None else "unchanged" if same else "configured")
        )
    if prune:
        found += [Change(kind, name, "pruned") for kind, name in there]
    return tuple(sorted(found))


class Wants:
    """What is wanted of one store. Every call raises `StoreUnavailable` and `HostDiskFull` as the store does.

    Args:
        store: The store.
        now: What the time is.
        bell: Called once something else is wanted.
    """

    def __init__(
        self, store: Store, now: Callable[[], Moment] = moment, bell: Callable[[], None] = lambda: None
    ) -> None:
        self._store: Final = store
        self._now: Final = now
        self._bell: Final = bell

    def apply(
        self, given: Sequence[Trigger], *, prune: bool = False, dry_run: bool = False
    ) -> tuple[Change, ...]:
        """Has things wanted, all or none. On the disk when it returns.

        A trigger that is new, or due at other times than before, begins with what comes from now on.

        Args:
            given: They.
            prune: Whether all else is wanted no more. What has begun goes on.
            dry_run: Whether nothing is changed.

        Returns:
            What was changed, or would be.

        Raises:
            ManifestInvalid: Two of them have one name, or there would be too many.
        """
        names = [(one.kind, one.name) for one in given]
        if twice := next((each for each in names if names.count(each) > 1), None):
            raise ManifestInvalid(
                f"{'/'.join(twice)} is wanted twice", hint="Give each thing of a kind a name of its own."
            )
        now = self._now()

        def work(tx: Transaction) -> tuple[Change, ...]:
            wanted_rows.lock(tx)
            stored = wanted_rows.read_all(tx)
            found = changes(given, stored, prune=prune)
            count = len(stored) + sum((each.what == "created") - (each.what == "pruned") for each in found)
            if count > MAX_WANTED:
                raise ManifestInvalid(
                    f"{count} things would be wanted",
                    hint=f"At most {MAX_WANTED:,} are; --prune has others wanted no more.",
                )
            if not dry_run:
                self._write(tx, given, stored, found, now)
                crash.point("wanted.before_commit")
            return found

        found = self._store.write(work)
        if not dry_run and any(each.what != "unchanged" for each in found):
            crash.point("wanted.applied")
            self._bell()
        return found

    def _write(
        self,
        tx: Transaction,
        given: Sequence[Trigger],
        stored: Sequence[WantedRow],
        found: Sequence[Change],
        now: Moment,
    ) -> None:
        before = {(row.kind, row.name): row for row in stored}
        wanted = {(one.kind, one.name): one for one in given}
        for kind, name, what in found:
            if what == "pruned":
                wanted_rows.remove(tx, kind, name)
            elif what != "unchanged":
                wanted_rows.put(tx, self._row(tx, wanted[kind, name], before.get((kind, name)), now))
                crash.point("wanted.before_next")
        after = wanted_rows.read_all(tx)
        hears, heard = (any(map(_topic, some)) for some in (after, stored))
        if hears and not heard:
            wanted_rows.begin_hearing(tx)
        elif heard and not hears:
            wanted_rows.end_hearing(tx)

    def _row(self, tx: Transaction, one: Trigger, before: WantedRow | None, now: Moment) -> WantedRow:
        row = WantedRow(
            one.kind, one.name, one.spec(), one.request.work, now.at_s, _beginning(tx, one, now), None, ""
        )
        if before is None:
            return row
        row = row._replace(run=before.run)
        older = _known(before)
        same = older is not None and older.occasion == one.occasion
        return row._replace(done=before.done) if same else row

    def standing(self) -> list[Standing]:
        """Lists what is wanted, in order of name, and what has become of it."""

        def work(tx: Transaction) -> list[Standing]:
            return [
                Standing(
                    read_trigger(row.name, row.spec, row.work),
                    row.applied,
                    row.run,
                    "" if row.run is None else rows.find(tx, row.run).state,
                    row.problem,
                )
                for row in wanted_rows.read_all(tx)
            ]

        return self._store.read(work)


def _beginning(tx: Transaction, one: Trigger, now: Moment) -> int:
    return wanted_rows.position(tx) if one.topic else int(now.at_s)


def _topic(row: WantedRow) -> bool:
    one = _known(row)
    return one is not None and bool(one.topic)


def _known(row: WantedRow) -> Trigger | None:
    """Returns a trigger; None where it is damaged: to apply it again mends it, and to prune it removes it."""
    try:
        return read_trigger(row.name, row.spec, row.work)
    except StoreDamaged:
        return None
