"""When to flatten: a pure decision over the sizes of a chain's deltas.

As in a log-structured merge tree, the newest deltas are joined once together they weigh as much as the one below
them. A change is then copied about as often as the chain can double in size, not once a delta. Source: O'Neil et al.,
"The log-structured merge-tree", 1996; the logarithmic method of Bentley and Saxe, 1980.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: A chain is at most this long after a decision has been followed: each layer costs every look-up of a missing name.
MAX_CHAIN: Final = 12
#: A chain shorter than this is left alone.
_MIN_CHAIN: Final = 8


def to_flatten(sizes: Sequence[int], limit: int = MAX_CHAIN) -> tuple[int, int] | None:
    """Decides which deltas of a chain to join.

    Args:
        sizes: Of each delta, the lowest first, in entries or in bytes.
        limit: How many deltas the chain may have, at least 2.

    Returns:
        The first and the one after the last of a run to replace by one delta, always up to the newest; or None.
    """
    count = len(sizes)
    if count < min(_MIN_CHAIN, limit):
        return None
    above = 0
    start = count
    for index in range(count - 1, -1, -1):
        weight = max(1, sizes[index])
        # This one weighs no more than all above it: joining it too at most doubles the work.
        if index == count - 1 or weight <= above:
            start = index
        above += weight
    if count > limit:
        start = min(start, limit - 1, count - 2)
    elif count - start < count // 2 or count - start < 2:
        return None
    return start, count
