"""The index of words: derived from the log, a page at a time and only for what somebody who searches can see.

Each segment of a lineage is looked at up to its end before a search of it; the row of the last entry that was looked at
says how far that was. What was lost is made again by the next search, and what the collector removes goes by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import and_, bindparam, func, or_, select, text

from kibo.context.entries import ContextEntry, Pin, Unpin, is_context, read
from kibo.context.words import indexed
from kibo.model.errors import StoreDamaged
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.lineage import Stretch
from kibo.store.log import COLUMNS, Entry, Lineage, batches
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import context_words, entries

#: Entries that one transaction looks at: some 40 ms, for which other writers wait.
_PAGE: Final = 250

_ADD: Final = insertion(context_words)
_MARK: Final = Prepared(
    select(func.max(context_words.c.seq)).where(context_words.c.segment == bindparam("segment")),
    checked=False,
)
#: Kept from the collector until their words are in: words of an entry that is gone would be refused.
_NEXT: Final = Prepared(
    select(*COLUMNS)
    .where(
        entries.c.segment == bindparam("segment"),
        entries.c.seq > bindparam("after"),
        entries.c.seq <= bindparam("last"),
    )
    .order_by(entries.c.seq)
    .limit(_PAGE)
    .with_for_update(read=True)
)


@functools.cache
def _ends(size: int) -> Prepared:
    ends = [
        and_(
            context_words.c.segment == bindparam(f"s{number}"), context_words.c.seq == bindparam(f"l{number}")
        )
        for number in range(size)
    ]
    return Prepared(select(context_words.c.segment).where(or_(*ends)))


def catch_up(store: Store, of: str) -> list[int]:
    """Brings the index up to what a branch or a snapshot sees now: about 0.2 ms for each entry that is new.

    Returns:
        The segments that it sees, the newest first.

    Raises:
        BranchUnknown, SnapshotUnknown: There is none, or it was collected.
    """
    stretches, done = store.read(lambda tx: _state(tx, of))
    for segment, _, _, last in stretches:
        mark = last if segment in done else 0
        while mark < last:
            found = store.write(lambda tx, segment=segment, last=last: _page(tx, segment, last))  # type: ignore[misc]
            mark = last if found is None else found
    return [stretch[0] for stretch in stretches]


def _state(tx: Transaction, of: str) -> tuple[list[Stretch], set[int]]:
    """Returns what a branch or a snapshot sees, and which segments have been looked at up to their ends."""
    stretches = visible_in(tx, of)
    last = {segment: end for segment, _, _, end in stretches}
    done: set[int] = set()
    for some, named in batches(list(last)):
        ends = {f"l{number}": last[segment] for number, segment in enumerate(some)}
        done.update(int(segment) for (segment,) in tx.rows(_ends(len(some)), **named, **ends))
    return stretches, done


def visible_in(tx: Transaction, of: str) -> list[Stretch]:
    """Returns the segments that a branch or a snapshot sees: nothing of a branch beside it is in any of them."""
    lineage = Lineage(tx, of)
    return lineage.segments(range(1, lineage.tail + 1))


def _page(tx: Transaction, segment: int, last: int) -> int | None:
    """Indexes the next entries of a segment. Returns the number of the last; None where there is none."""
    mark = tx.row(_MARK, segment=segment)
    after = 0 if mark is None or mark[0] is None else int(mark[0])
    page = [Entry._make(row) for row in tx.rows(_NEXT, segment=segment, after=after, last=last)]
    if not page:
        return None
    rows = [row for entry in page if (row := _row(entry, segment, entry is page[-1])) is not None]
    tx.run_all(_ADD, rows)
    crash.point("context.before_indexed")
    return page[-1].seq


def _row(entry: Entry, segment: int, last: bool) -> dict[str, Any] | None:
    made = _readable(entry)
    if made is None and not last:
        return None
    words = "" if made is None or isinstance(made, Pin | Unpin) else indexed(made.text)
    name = "" if made is None else str(made.id)[:40]
    return {"position": entry.position, "segment": segment, "seq": entry.seq, "entry": name, "words": words}


def _readable(entry: Entry) -> ContextEntry | None:
    """Reads an entry; None of one that is damaged: it is not found, and whoever reads it is told."""
    if not is_context(entry.kind):
        return None
    try:
        return read(entry)
    except StoreDamaged:
        return None


# -- looking up


@functools.cache
def _matching(condition: str, size: int) -> Prepared:
    within = context_words.c.segment.in_([bindparam(f"s{number}") for number in range(size)])
    query = select(context_words.c.position, context_words.c.words).where(text(condition), within)
    return Prepared(query.order_by(context_words.c.position.desc()).limit(bindparam("count")))


@functools.cache
def _named(size: int) -> Prepared:
    within = context_words.c.segment.in_([bindparam(f"s{number}") for number in range(size)])
    joined = select(*COLUMNS).join_from(
        context_words, entries, entries.c.position == context_words.c.position
    )
    return Prepared(joined.where(context_words.c.entry == bindparam("entry"), within))


@functools.cache
def _placed(size: int) -> Prepared:
    return Prepared(
        select(*COLUMNS).where(entries.c.position.in_([bindparam(f"s{number}") for number in range(size)]))
    )


def matching_in(
    tx: Transaction, store: Store, segments: Sequence[int], words: Sequence[str], count: int, *, every: bool
) -> list[tuple[int, str]]:
    """Finds entries of some segments by words: their positions and words, the newest first, `count` at most."""
    wanted = store.dialect.words_query(words, every=every)
    found: list[tuple[int, str]] = []
    for some, named in batches(segments):
        query = _matching(store.dialect.matching, len(some))
        found += [(int(at), str(said)) for at, said in tx.rows(query, wanted=wanted, count=count, **named)]
    return sorted(found, reverse=True)[:count]


def named_in(tx: Transaction, segments: Sequence[int], entry: str) -> Entry | None:
    """Finds an entry of some segments by its id."""
    for some, named in batches(segments):
        row = tx.row(_named(len(some)), entry=entry, **named)
        if row is not None:
            return Entry._make(row)
    return None


def placed_in(tx: Transaction, positions: Sequence[int]) -> dict[int, Entry]:
    """Reads entries by their positions."""
    found: Iterator[Any] = (
        row for some, named in batches(positions) for row in tx.rows(_placed(len(some)), **named)
    )
    return {entry.position: entry for entry in map(Entry._make, found)}
