"""Times, counted by how long they are."""

from bisect import bisect_left

#: Bounds of the times that are told apart, in seconds: from a warm start to a night in the queue.
BOUNDS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0,
)  # fmt: skip


class Histogram:
    """How often something took how long.

    Attributes:
        counts: One for each bound, of what is not above it but above the one before, and one for what is above all.
        sum_s: Of all times, in seconds.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one; a time below 0, by a clock that was set back, as 0."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def merge(self, other: "Histogram") -> None:
        """Counts what another has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s
