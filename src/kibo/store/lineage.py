"""Which segments of the log one snapshot sees, nearest first, in a list of bounded length.

A lineage is a chain of segments. Sequence numbers count along it without a gap, so that the last number and each
segment's count say which segment holds which numbers. A snapshot keeps the nearest `NEAR` of its non-empty segments,
its own included; what lies beyond, the last one's own snapshot knows. So the newest 100 entries need one row, however
deep the branch is.

A segment's name in the log is a number made of the first 63 bits of the id of the snapshot that seals it. SQLite
finds a hundred numbers in its index in half the time that it takes for a hundred ids. The log makes sure that no two
segments have the same one.

Where the entries of a segment lie next to each other in the whole store, the list says where, and SQLite reads them by
row number: an index of its own for each of a hundred segments would cost half as much again.
"""

from __future__ import annotations

import struct
from typing import Final

from kibo.model.errors import StoreDamaged
from kibo.model.ids import SnapshotId

#: Segments that a snapshot knows. Each has an entry at least, so the newest 100 entries never need a second row.
NEAR: Final = 128

#: The id's first 8 bytes and its last 4, how many entries the segment has, and the position of the first or 0.
_ONE: Final = struct.Struct(">Q4sIQ")


#: Entries of one segment, at most: what its count has room for.
_MOST: Final = (1 << 32) - 1

#: What one sealed segment has of a lineage: its name in the log; where its first entry is, if the others follow it
#: without a gap, else 0; the numbers of its first entry and of its last. Plain tuples: a reading makes a hundred.
Stretch = tuple[int, int, int, int]


def segment_of(snapshot: str) -> int:
    """Names the segment that a snapshot seals, or will."""
    return int(snapshot[len(SnapshotId.prefix) :][:16], 16) >> 1


def is_list(near: bytes) -> bool:
    """Tells whether bytes are such a list: nothing is torn off."""
    return len(near) % _ONE.size == 0


def extend(near: bytes, snapshot: str, count: int, position: int) -> bytes:
    """Puts the newly sealed segment of a snapshot in front; an empty one changes nothing.

    Args:
        near: The list of the snapshot before it.
        snapshot: The snapshot's id.
        count: How many entries the segment has.
        position: See `Stretch`.

    Raises:
        StoreDamaged: A segment cannot have so many.
    """
    if count == 0:
        return near
    if not 0 < count <= _MOST:
        raise StoreDamaged(
            f"the store is damaged: snapshot {snapshot} would seal {count} entries",
            details={"snapshot": snapshot, "entries": count},
        )
    name = bytes.fromhex(snapshot[len(SnapshotId.prefix) :])
    return name + count.to_bytes(4) + position.to_bytes(8) + near[: (NEAR - 1) * _ONE.size]


def collect(near: bytes, last: int, wanted: range, found: list[Stretch]) -> int:
    """Finds the segments of a list that hold any of the wanted numbers, newest first, and looks no further.

    Args:
        near: As `extend` made it.
        last: The last sequence number of the lineage.
        wanted: The numbers, with a step of 1; not empty.
        found: Where to add them.

    Returns:
        The last number of what the list does not say; below `wanted` where it said all.
    """
    first, highest = wanted.start, wanted[-1]
    for name, _, count, position in _ONE.iter_unpack(near):
        before = last - count
        if before < highest:
            found.append((name >> 1, position, before + 1, last))
        last = before
        if last < first:
            break
    return last


def farthest(near: bytes) -> SnapshotId:
    """Names the snapshot that sealed the last segment of a list that is not empty."""
    return SnapshotId(SnapshotId.prefix + near[-_ONE.size :][:12].hex())
