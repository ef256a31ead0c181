"""How much is measured: everything, or just enough to see a change."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The share of the full counts and times to use, above 0 and at most 1."""

    share: float = 1.0

    def of(self, count: int) -> int:
        """Returns a count at this scale, at least 50 or the whole."""
        return max(min(count, 50), int(count * self.share))

    def seconds(self, full: float) -> float:
        """Returns a duration at this scale, at least half a second."""
        return max(0.5, full * self.share)
