"""Finding one entry of a context by its id, and the unit that it belongs to."""

from __future__ import annotations

from kibo.context.entries import ContextEntry, ToolCall, ToolResult, is_context, read
from kibo.context.reading import visible
from kibo.context.units import CLOSING, Unit, calls_of, group
from kibo.model.errors import ContextEntryUnknown, WrongState
from kibo.store.database import Transaction
from kibo.store.log import Entry as LogEntry
from kibo.store.log import following_in, newest_in

_PAGE = 64


def at_in(tx: Transaction, of: str, seq: int) -> ContextEntry | None:
    """Returns the entry of a number; None where there is none, or it is none of a context."""
    found = newest_in(tx, of, 1, seq + 1) if seq > 0 else []
    return read(found[0]) if found and found[0].seq == seq and is_context(found[0].kind) else None


def unit_in(tx: Transaction, of: str, entry: ContextEntry) -> Unit:
    """Returns what prompts show together with an entry.

    Raises:
        WrongState: It is a call that still waits for a result, or a result without a call, or what no prompt shows.
    """
    if not isinstance(entry, ToolCall | ToolResult) and not calls_of(entry):
        return Unit((entry,))
    around = group(visible([*_back(tx, of, entry), *_forth(tx, of, entry)]))
    for unit in around.units:
        if any(each.id == entry.id for each in unit.entries):
            return unit
    if any(each.id == entry.id for each in around.pending):
        raise WrongState(
            f"entry {entry.id} belongs to a call that has no result yet",
            hint="Pin it once the result is there: a prompt has a call and its result, or neither.",
            details={"entry": entry.id, "waiting": list(around.waiting)},
        )
    raise WrongState(
        f"entry {entry.id} is the result of no call, and no prompt shows it",
        hint="Write what it says as a note, and pin that.",
        details={"entry": entry.id},
    )


def unknown(entry: str, of: str) -> ContextEntryUnknown:
    """Makes the error for an entry that is not there."""
    return ContextEntryUnknown(
        f"{of} sees no entry {entry}",
        hint="It may be of a branch beside it, or have been collected; entries() lists what there is.",
        details={"entry": entry, "of": of},
    )


def _back(tx: Transaction, of: str, entry: ContextEntry) -> list[ContextEntry]:
    """Reads back from an entry, itself included, to one that ends calls."""
    found: list[ContextEntry] = []
    before, width = entry.seq + 1, _PAGE
    while page := newest_in(tx, of, width, before):
        found = _made(page) + found
        last = max((index for index, each in enumerate(found) if isinstance(each, CLOSING)), default=None)
        if last is not None:
            return found[last:]
        before, width = page[0].seq, min(2 * width, 8192)
    return found


def _forth(tx: Transaction, of: str, entry: ContextEntry) -> list[ContextEntry]:
    """Reads on from an entry to one that ends calls."""
    found: list[ContextEntry] = []
    after, width = entry.seq, _PAGE
    while page := following_in(tx, of, after, width):
        for each in _made(page):
            found.append(each)
            if isinstance(each, CLOSING):
                return found
        after, width = page[-1].seq, min(2 * width, 8192)
    return found


def _made(page: list[LogEntry]) -> list[ContextEntry]:
    return [made for each in page if is_context(each.kind) and (made := read(each)) is not None]
