"""The append-only log that every part shares: files, messages, context, effects, runs.

A branch writes into its open segment; a snapshot seals it. What a branch sees is its own segment and its ancestors',
as they were when it was forked. A commit moves the parent's head to the child's, and with it the child's entries come
into sight, all at once; those of an aborted branch never do.

Sequence numbers count along a lineage from 1, without a gap. After a merge the order is: ours, with the numbers they
had, then theirs since the common base, each marked with the branch it came from.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Text, bindparam, func, or_, select, text, update

from kibo.model.errors import InvalidInput, SnapshotUnknown, StoreDamaged
from kibo.model.ids import BranchId, SnapshotId
from kibo.model.limits import MAX_ENTRY_BYTES
from kibo.store import crash, fencing
from kibo.store.database import Store, Transaction
from kibo.store.lineage import NEAR, Stretch, collect, farthest, segment_of
from kibo.store.prepared import Prepared, Row, insertion
from kibo.store.schema import RARE, branches, entries, snapshots

_KIND: Final = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)*")
_MAX_KIND: Final = 64

#: Entries that one call returns at most; more are the next call's.
MAX_PAGE: Final = 10_000


class Entry(NamedTuple):
    """One entry of the log.

    Attributes:
        seq: Its number along the lineage, from 1.
        kind: What it is, such as ``"message"`` or ``"context.user"``.
        body: What was written.
        at_s: When, in seconds since 1970.
        origin: The branch in which it was written, where a merge brought it here; else None.
        position: Its place in the whole store; grows, with gaps. Where several servers' sessions write at once, an
            entry may come into sight after one of a higher position.
    """

    seq: int
    kind: str
    body: bytes
    at_s: float
    origin: str | None
    position: int

    @property
    def value(self) -> Any:
        """The body as the JSON value that it holds.

        Raises:
            StoreDamaged: It holds none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise StoreDamaged(
                f"the body of entry {self.seq} at position {self.position} is no JSON: {error}",
                hint="Where bytes were written, read `body`; else the history is damaged there.",
                details={"table": "entries", "column": "body", "row": {"position": self.position}},
            ) from error


#: What a row of the log is read by, in the order of `Entry`.
COLUMNS: Final = [entries.c[name] for name in ("seq", "kind", "body", "at", "origin", "position")]
_INSERT: Final = insertion(entries, "position")
_TAIL: Final = Prepared(
    update(branches).where(branches.c.id == bindparam("branch")).values(tail=bindparam("last"))
)
_TAKEN: Final = Prepared(select(entries.c.seq).where(entries.c.segment == bindparam("segment")).limit(1))
_NEXT: Final = Prepared(
    update(branches).where(branches.c.id == bindparam("branch")).values(next=bindparam("following"))
)
_OF_BRANCH: Final = Prepared(
    select(branches.c.next, branches.c.tail, branches.c.sealed, snapshots.c.near)
    .join_from(branches, snapshots, snapshots.c.id == branches.c.head)
    .where(branches.c.id == bindparam("of"))
)
_OF_SNAPSHOT: Final = Prepared(
    select(snapshots.c.near, snapshots.c.seq).where(
        snapshots.c.id == bindparam("of"), snapshots.c.state != "doomed"
    )
)
_ALL: Final = Prepared(
    select(*COLUMNS)
    .where(entries.c.position > bindparam("after"))
    .order_by(entries.c.position)
    .limit(bindparam("count"))
)


def _listed() -> Any:
    return func.json_each(bindparam("listed", type_=Text)).table_valued("value").c.value


#: One value instead of a hundred: a statement of one size, which a new process compiles in no time.
_OF_SEGMENTS: Final = Prepared(
    select(*COLUMNS).where(
        entries.c.segment.in_(select(_listed())),
        entries.c.seq >= bindparam("first"),
        entries.c.seq <= bindparam("last"),
    )
)
_PLACES: Final = func.json_each(bindparam("listed", type_=Text)).table_valued("value")
_AT: Final = Prepared(select(*COLUMNS).join_from(_PLACES, entries, entries.c.position == _PLACES.c.value))
_POSITION: Final = Prepared(
    select(entries.c.position).where(
        entries.c.segment == bindparam("segment"), entries.c.seq == bindparam("number")
    )
)


class Log:
    """The log of one store. Any number of threads and processes append and read at once."""

    def __init__(self, store: Store) -> None:
        self.store: Final = store

    def append(self, branch: str, kind: str, body: Any, *, epoch: int | None = None) -> int:
        """Writes one entry into a branch's open segment. On the disk when it returns; about 0.3 ms on SQLite.

        Args:
            branch: The id of an open branch.
            kind: Lower-case words joined by dots, at most 64 characters.
            body: Bytes as they are, or a value that JSON can hold.
            epoch: The writer's claim on the branch, see `History.claim`; None where it has none.

        Returns:
            The entry's sequence number.

        Raises:
            BranchUnknown, BranchClosed, BranchTaken: Nothing was written.
            InvalidInput: The kind is not well formed, or the body too large.
            StoreUnavailable: The database does not answer.
        """
        return self.extend(branch, [(kind, body)], epoch=epoch)[-1]

    def extend(self, branch: str, drafts: Sequence[tuple[str, Any]], *, epoch: int | None = None) -> range:
        """Writes several entries, in order, all or none. Returns their sequence numbers; errors as `append`."""
        settled = settle(drafts)
        return self.store.write(lambda tx: append_in(tx, branch, settled, epoch))

    def newest(
        self, of: str, count: int = 100, *, before: int | None = None, kinds: Sequence[str] = ()
    ) -> list[Entry]:
        """Reads the newest entries that a branch or a snapshot sees.

        One row and one query for up to 128, however deep the branch; more rows only for what lies further back.

        Args:
            of: A branch or a snapshot, by id.
            count: How many at most, 1 to 10,000.
            before: Only entries with a lower number; for the page before this one.
            kinds: Only these; each stands for itself and everything below it, ``"context"`` for ``"context.user"``
                too. Empty for all.

        Returns:
            The entries in order, the newest last.

        Raises:
            BranchUnknown, SnapshotUnknown: There is none, or it was collected.
            StoreUnavailable: The database does not answer.
        """
        _check_page(count)
        return self.store.read(lambda tx: newest_in(tx, of, count, before, tuple(kinds)))

    def read(self, of: str, *, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Entry]:
        """Reads on from a number: the prefix of a lineage, page by page.

        Args:
            of: A branch or a snapshot, by id.
            after: The number of the last entry already read; 0 to start.
            limit: How many at most, 1 to 10,000.
            kinds: As `newest`.

        Returns:
            The next entries in order; none when there are no more.

        Raises:
            BranchUnknown, SnapshotUnknown: There is none, or it was collected.
            StoreUnavailable: The database does not answer.
        """
        _check_page(limit)
        return self.store.read(lambda tx: following_in(tx, of, after, limit, tuple(kinds)))

    def length(self, of: str) -> int:
        """Returns the last sequence number that a branch or a snapshot sees; errors as `read`."""
        return self.store.read(lambda tx: Lineage(tx, of).tail)

    def parting(self, one: str, other: str) -> int:
        """Returns the number of the last entry that two branches or snapshots both see as theirs; 0 where none is.

        Up to there they are one line, and beyond it each has entries of its own. Cost is in how far back that is.

        Raises:
            BranchUnknown, SnapshotUnknown: There is no such one, or it was collected.
        """
        return self.store.read(lambda tx: parting_in(tx, one, other))

    def everything(self, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Reads the entries of all branches by position, visible anywhere or not: for live views, not for decisions."""
        _check_page(limit)
        return [
            Entry._make(row) for row in self.store.read(lambda tx: tx.rows(_ALL, after=after, count=limit))
        ]


def settle(drafts: Iterable[tuple[str, Any]]) -> list[tuple[str, bytes]]:
    """Checks kinds and bodies, and turns values into JSON.

    Raises:
        InvalidInput: A kind is not well formed, a body is too large or is no value of JSON.
    """
    return [(_checked(kind), _encoded(body)) for kind, body in drafts]


def append_in(
    tx: Transaction,
    branch: str,
    drafts: Sequence[tuple[str, bytes]],
    epoch: int | None = None,
    now: float | None = None,
) -> range:
    """As `Log.extend`, in a transaction of the caller's; `drafts` as `settle` gives them, written `now`."""
    row = fencing.hold(tx, branch, epoch)
    if not row.dirty:
        row = with_free_segment(tx, row)
    numbers = range(row.tail + 1, row.tail + 1 + len(drafts))
    if drafts:
        _insert(tx, segment_of(row.next), numbers, drafts, time.time() if now is None else now)
        crash.point("append.before_tail")
        tx.run(_TAIL, branch=branch, last=numbers[-1])
        crash.point("append.before_commit")
    return numbers


def with_free_segment(tx: Transaction, row: fencing.BranchRow) -> fencing.BranchRow:
    """Sees that the segment about to get its first entry is no other's."""
    while taken(tx, row.next):
        row = row._replace(next=SnapshotId.new())
        tx.run(_NEXT, branch=row.id, following=row.next)
    return row


def taken(tx: Transaction, snapshot: str) -> bool:
    """Whether the segment that a snapshot would seal has entries: 63 bits meet once in a long while."""
    return tx.row(_TAKEN, segment=segment_of(snapshot)) is not None


def position_of(tx: Transaction, snapshot: str, last: int, count: int) -> int:
    """Returns where a segment begins in the store, if its entries lie there side by side and are read so; else 0.

    Args:
        tx: A transaction that holds the segment's branch.
        snapshot: The snapshot that seals the segment.
        last: The number of its last entry.
        count: How many it has.
    """
    if not tx.reads_json or not count:
        return 0
    ends = [
        tx.row(_POSITION, segment=segment_of(snapshot), number=number) for number in (last - count + 1, last)
    ]
    begin, end = (0 if row is None else int(row[0]) for row in ends)
    return begin if end - begin == count - 1 else 0


def _insert(
    tx: Transaction, segment: int, numbers: range, drafts: Sequence[tuple[str, bytes]], now: float
) -> None:
    values = [
        {"segment": segment, "seq": seq, "kind": kind, "body": body, "at": now, "origin": None}
        for seq, (kind, body) in zip(numbers, drafts, strict=True)
    ]
    if len(values) == 1:
        tx.run(_INSERT, **values[0])
    else:
        tx.run_all(_INSERT, values)


def insert_copies(
    tx: Transaction, segment: int, copies: Sequence[tuple[int, str, bytes, float, str | None]]
) -> None:
    """Writes entries that exist elsewhere into a segment: number, kind, body, time and origin of each."""
    names = ("seq", "kind", "body", "at", "origin")
    if copies:
        tx.run_all(_INSERT, [{"segment": segment, **dict(zip(names, each, strict=True))} for each in copies])


class Lineage:
    """The segments that one branch or snapshot sees, loaded as far back as they are asked for.

    Attributes:
        tail: The last sequence number.
    """

    def __init__(self, tx: Transaction, of: str) -> None:
        self._tx = tx
        self._open = 0
        self.tail: int
        if of.startswith(BranchId.prefix):
            row = tx.row(_OF_BRANCH, of=of)
            if row is None:
                fencing.find(tx, of)  # says that there is none
                raise _snapshot_unknown(of)
            following, self.tail, self._sealed, self._near = row
            self._open = segment_of(following)
        else:
            self._near, self._sealed = self._snapshot(of)
            self.tail = self._sealed

    def segments(self, wanted: range) -> list[Stretch]:
        """Returns the segments that hold any of a stretch of numbers, newest first."""
        wanted = range(max(wanted.start, 1), min(wanted.stop, self.tail + 1))
        if not wanted:
            return []
        found = [(self._open, 0, self._sealed + 1, self.tail)] if wanted[-1] > self._sealed else []
        if wanted.start <= self._sealed:
            near = self._near
            last = collect(near, self._sealed, wanted, found)
            while last >= wanted.start:
                # The last one that this list knows has a list of its own, which begins with itself: read it over.
                near, last = self._snapshot(farthest(near))
                again: list[Stretch] = []
                last = collect(near, last, wanted, again)
                found += again if again[:1] != found[-1:] else again[1:]
        return found

    def _snapshot(self, snapshot: str) -> tuple[bytes, int]:
        row = self._tx.row(_OF_SNAPSHOT, of=snapshot)
        if row is None:
            raise _snapshot_unknown(snapshot)
        return row[0], row[1]


def newest_in(
    tx: Transaction, of: str, count: int, before: int | None = None, kinds: tuple[str, ...] = ()
) -> list[Entry]:
    """As `Log.newest`, in a transaction of the caller's."""
    lineage = Lineage(tx, of)
    last = lineage.tail if before is None else min(lineage.tail, before - 1)
    found: list[Entry] = []
    width = count if not kinds else 4 * count
    while last > 0 and len(found) < count:
        first = max(1, last - width + 1)
        found = _between(tx, lineage, first, last, kinds) + found
        last, width = first - 1, width * 2  # kinds may be rare: look back in ever longer stretches
    return found[-count:]


def following_in(
    tx: Transaction, of: str, after: int, limit: int, kinds: tuple[str, ...] = ()
) -> list[Entry]:
    """As `Log.read`, in a transaction of the caller's."""
    lineage = Lineage(tx, of)
    first = max(after, 0) + 1
    found: list[Entry] = []
    width = limit if not kinds else 4 * limit
    while first <= lineage.tail and len(found) < limit:
        last = min(lineage.tail, first + width - 1)
        found += _between(tx, lineage, first, last, kinds)
        first, width = last + 1, width * 2
    return found[:limit]


def parting_in(tx: Transaction, one: str, other: str) -> int:
    """As `Log.parting`, in a transaction of the caller's."""
    sides = Lineage(tx, one), Lineage(tx, other)
    last = min(side.tail for side in sides)
    width = NEAR
    while last > 0:
        first = max(1, last - width + 1)
        ours, theirs = (
            {(name, start): end for name, _, start, end in side.segments(range(first, last + 1))}
            for side in sides
        )
        if shared := ours.keys() & theirs.keys():
            return max(min(ours[each], theirs[each]) for each in shared)
        if first == 1:
            break
        width *= 2
    return 0


def of_kinds_in(tx: Transaction, of: str, kinds: tuple[str, ...]) -> list[Entry]:
    """Reads all entries of some kinds that a branch or a snapshot sees, in order: an index finds them in each segment.

    Args:
        tx: A transaction.
        of: A branch or a snapshot, by id.
        kinds: Of `RARE_KINDS`, each for itself alone.

    Raises:
        BranchUnknown, SnapshotUnknown: There is none, or it was collected.
    """
    lineage = Lineage(tx, of)
    segments = [stretch[0] for stretch in lineage.segments(range(1, lineage.tail + 1))]
    named_kinds = {f"k{number}": kind for number, kind in enumerate(kinds)}
    found: list[Row] = []
    for some, named in batches(segments):
        found += tx.rows(_query_kinds(len(some), len(kinds)), **named, **named_kinds)
    return [Entry._make(row) for row in sorted(found)]


def batches(segments: Sequence[int]) -> Iterator[tuple[list[int], dict[str, int]]]:
    """Yields segments, so many at a time, and as the values of a statement."""
    for start in range(0, len(segments), NEAR):
        some = list(segments[start : start + NEAR])
        size = -(-len(some) // 4) * 4 if len(some) > 1 else 1  # few sizes: few statements to compile and keep
        some += some[:1] * (size - len(some))
        yield some, {f"s{number}": segment for number, segment in enumerate(some)}


def _between(tx: Transaction, lineage: Lineage, first: int, last: int, kinds: tuple[str, ...]) -> list[Entry]:
    """Reads the entries with numbers from `first` to `last`, in order."""
    stretches = lineage.segments(range(first, last + 1))
    segments = [stretch[0] for stretch in stretches]
    found: list[Row] = []
    if tx.reads_json and not kinds and len(segments) > 1:
        segments = [stretch[0] for stretch in stretches if not stretch[1]]
        if at := _positions(stretches, first, last):
            found = tx.rows(_AT, listed=str(at))
        if segments:
            found += tx.rows(_OF_SEGMENTS, listed=str(segments), first=first, last=last)
        return [Entry._make(row) for row in sorted(found)]
    named_kinds = {f"k{number}": kind for number, kind in enumerate(kinds)}
    below = {f"b{number}": _below(kind) for number, kind in enumerate(kinds)}
    for some, named in batches(segments):
        query = _query(len(some), len(kinds))
        found += tx.rows(query, first=first, last=last, **named, **named_kinds, **below)
    return [Entry._make(row) for row in sorted(found)]


def _positions(stretches: Iterable[Stretch], first: int, last: int) -> list[int]:
    """Returns where the wanted entries of those stretches are that lie in one piece."""
    found: list[int] = []
    for _, position, low, high in stretches:
        if not position:
            continue
        if low == high:
            found.append(position)
        else:
            offset = position - low
            found.extend(range(max(first, low) + offset, min(last, high) + offset + 1))
    return found


@functools.cache
def _query(size: int, kinds: int) -> Prepared:
    table = entries.c
    query = select(*COLUMNS).where(
        table.segment.in_([bindparam(f"s{number}") for number in range(size)]),
        table.seq >= bindparam("first"),
        table.seq <= bindparam("last"),
    )
    if kinds:
        each = [
            or_(table.kind == bindparam(f"k{number}"), table.kind.like(bindparam(f"b{number}"), escape="!"))
            for number in range(kinds)
        ]
        query = query.where(or_(*each))
    return Prepared(query)


@functools.cache
def _query_kinds(size: int, kinds: int) -> Prepared:
    table = entries.c
    return Prepared(
        select(*COLUMNS).where(
            table.segment.in_([bindparam(f"s{number}") for number in range(size)]),
            text(f"entries.{RARE}"),
            table.kind.in_([bindparam(f"k{number}") for number in range(kinds)]),
        )
    )


def _below(kind: str) -> str:
    return _checked(kind).replace("_", "!_") + ".%"


def _checked(kind: str) -> str:
    if len(kind) > _MAX_KIND or not _KIND.fullmatch(kind):
        raise InvalidInput(
            f"not a kind of entry: {kind!r}",
            hint=f"Lower-case words joined by dots, at most {_MAX_KIND} characters, such as context.user.",
        )
    return kind


def _encoded(body: Any) -> bytes:
    if not isinstance(body, bytes):
        try:
            body = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"a body is neither bytes nor a value of JSON: {error}",
                hint="Use bytes, or str, int, float, bool, None, list and dict.",
            ) from error
    encoded: bytes = body
    if len(encoded) > MAX_ENTRY_BYTES:
        raise InvalidInput(
            f"an entry of {len(encoded)} bytes is larger than the log takes",
            hint="Put it into a file, and its name into the log.",
            details={"bytes": len(encoded), "limit_bytes": MAX_ENTRY_BYTES},
        )
    return encoded


def _check_page(count: int) -> None:
    if not 1 <= count <= MAX_PAGE:
        raise InvalidInput(f"a page of {count} entries", hint=f"Ask for 1 to {MAX_PAGE:,} at a time.")


def _snapshot_unknown(snapshot: str) -> SnapshotUnknown:
    return SnapshotUnknown(
        f"there is no snapshot {snapshot}",
        hint="It may have been collected; labels and pins keep snapshots.",
        details={"snapshot": SnapshotId(snapshot)},
    )
