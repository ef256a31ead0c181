"""Where a prompt begins: a pure decision that stays the same while a history grows, as long as it can.

Dropping the oldest entry each time that one is added would change a prompt's first bytes each time, and no provider's
cache would ever hit. So a beginning is chosen that leaves at least half of the room filled, and is kept until it would
leave the room: then another is chosen, and a new *generation* of the prompt begins.

Nothing is stored for that. Between two units lie the numbers of the log from the one's, excluded, to the other's,
included; the *level* of the second is the highest power of two of which one of these is a multiple. Of all units with
which the room is at least half full, and not too full, the prompt begins with that of the highest level, of which there
is exactly one. As the history grows, both ends of that range move forward only, and so does the beginning, about twice
for each time that the history grows by as much as half of the room holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: The level of what nothing comes before.
FIRST: Final = 64


def level(before: int, seq: int) -> int:
    """Returns the level of a unit.

    Args:
        before: The number of the unit before it, 0 for none.
        seq: Its own number, which is higher.
    """
    return FIRST if before == 0 else (before ^ seq).bit_length() - 1


def filling(sizes: Sequence[int], room: int) -> int:
    """Returns the index of the first of the newest units that fit into the room together; their number if none does."""
    total = 0
    for index in range(len(sizes) - 1, -1, -1):
        total += sizes[index]
        if total > room:
            return index + 1
    return 0


def beginning(sizes: Sequence[int], seqs: Sequence[int], room: int) -> int:
    """Returns the index of the unit that a prompt begins with.

    Args:
        sizes: The tokens of each unit, in order. Nothing comes before the first, or it does not fit with the others.
        seqs: Their numbers.
        room: How many tokens there are for them.
    """
    first = filling(sizes, room)
    total, best, highest = sum(sizes[first:]), first, -1
    for index in range(first, len(sizes)):
        if index > first and 2 * total < room:
            break
        before = seqs[index - 1] if index else 0
        if (found := level(before, seqs[index])) > highest:
            best, highest = index, found
        total -= sizes[index]
    return best
