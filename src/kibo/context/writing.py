"""Writing into the context of a branch: checked against what is there, in the transaction that writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kibo.context.entries import ContextEntry, EntryT, ToolCall, ToolResult, kind_of, placed
from kibo.context.reading import open_in
from kibo.context.units import Grouped, calls_of, group
from kibo.model.errors import CallUnknown, ContextInvalid
from kibo.store import crash, fencing
from kibo.store.database import Transaction
from kibo.store.log import Log, append_in, settle

#: Entries that one import writes, in one transaction.
MAX_ENTRIES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes into a branch.

    Attributes:
        log: The store's.
        branch: Its id.
        epoch: The claim that each write carries; None where the caller has none.
        check: Raises where the branch cannot be written to any more.
    """

    log: Log
    branch: str
    epoch: int | None
    check: Callable[[], None]

    def append(self, entry: EntryT, check: Callable[[Transaction], None] | None = None) -> EntryT:
        """Writes one entry; see `extend`."""
        kind, body = settle([(kind_of(type(entry)), entry.body())])[0]

        def work(tx: Transaction) -> tuple[int, float]:
            if check is not None:
                fencing.hold(tx, self.branch, self.epoch)
                check(tx)
            now = time.time()
            return append_in(tx, self.branch, [(kind, body)], self.epoch, now)[0], now

        self.check()
        return placed(entry, *self.log.store.write(work))

    def extend(self, make: Callable[[int], Sequence[ContextEntry]]) -> list[ContextEntry]:
        """Writes several entries, in order, all or none.

        Args:
            make: Given the number of the last entry that is there, returns what to write after it. It may be called
                again.

        Returns:
            The entries as they are in the log.

        Raises:
            CallUnknown: A result has no call that waits for it.
            BranchClosed, BranchTaken: As of `kibo.store.log.Log.append`.
        """

        def work(tx: Transaction) -> list[ContextEntry]:
            row = fencing.hold(tx, self.branch, self.epoch)
            entries = make(row.tail)
            if len(entries) > MAX_ENTRIES:
                raise ContextInvalid(
                    f"{len(entries):,} entries at once", hint=f"Import at most {MAX_ENTRIES:,} at a time."
                )
            check_order(open_in(tx, self.branch), entries)
            settled = settle((kind_of(type(entry)), entry.body()) for entry in entries)
            now = time.time()
            crash.point("context.before_import")
            numbers = append_in(tx, self.branch, settled, self.epoch, now)
            crash.point("context.before_commit")
            return [placed(entry, seq, now) for entry, seq in zip(entries, numbers, strict=True)]

        self.check()
        return self.log.store.write(work)


def check_order(before: Sequence[ContextEntry], entries: Sequence[ContextEntry]) -> None:
    """Checks that each result of some new entries has a call that waits for it.

    Args:
        before: What is there since the last entry that ended calls.
        entries: What is to come after it.

    Raises:
        CallUnknown: One has none.
    """
    found = group([*before, *entries])
    new = {entry.id: index for index, entry in enumerate(entries)}
    for astray in found.astray:
        if astray.id in new:
            raise call_unknown(astray, group(before), new[astray.id] if len(entries) > 1 else None)


def check_result(tx: Transaction, branch: str, result: ToolResult) -> None:
    """Checks that a call waits for a result; errors as `check_order`."""
    check_order(open_in(tx, branch), [result])


def check_call(tx: Transaction, branch: str, entry: ToolCall) -> None:
    """Checks that no call that still waits has the same id.

    Raises:
        ContextInvalid: One has.
    """
    found = group(open_in(tx, branch))
    if any(call.id == entry.call.id for each in found.pending for call in calls_of(each)):
        raise ContextInvalid(
            f"a call with the id {entry.call.id!r} waits for its result already",
            hint="Give each call an id of its own: results name their call by it.",
            details={"call": entry.call.id},
        )


def call_unknown(result: ToolResult, before: Grouped, index: int | None) -> CallUnknown:
    """Makes the error for a result without a call."""
    waiting = ", ".join(before.waiting) or "none"
    where = "" if index is None else f" (message {index})"
    return CallUnknown(
        f"no call {result.call_id!r} waits for a result{where}",
        hint="Write the call first, with assistant(..., tool_calls=[...]) or tool_call(...). A call is given up when "
        "a user or a model says something else; what came too late can be told as a note. "
        f"Calls that wait: {waiting}.",
        details={"call": result.call_id, "waiting": list(before.waiting), "index": index},
    )
