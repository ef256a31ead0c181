"""What a benchmark finds: figures, each with its distribution and what was promised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

#: How many times as much a step costs at most at the far end, when it is said to be flat.
FLAT: Final = 1.5


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        name: What was measured, unique within its bench and user.
        unit: ``"ms"``, ``"/s"``, ``"MiB"``, ``"x"`` (a ratio) ...
        value: The middle of the distribution, or the one value; None where it could not be measured.
        low: The smallest.
        p99: The 99th percentile; None for single values.
        target: What SPECIFICATION.md promises of `value`, or None.
        target_p99: What it promises of `p99`, or None.
        higher_is_better: Whether the target is a floor rather than a ceiling.
        note: What a reader must know, such as why there is no value.
    """

    name: str
    unit: str
    value: float | None
    low: float | None = None
    p99: float | None = None
    target: float | None = None
    target_p99: float | None = None
    higher_is_better: bool = False
    note: str = ""
    count: int = field(default=1)

    @property
    def kept(self) -> bool | None:
        """Whether the promise holds; None where nothing was promised or measured."""
        if self.value is None or (self.target is None and self.target_p99 is None):
            return None
        if self.higher_is_better:
            return self.target is None or self.value >= self.target
        middle = self.target is None or self.value <= self.target
        tail = self.target_p99 is None or self.p99 is None or self.p99 <= self.target_p99
        return middle and tail

    def as_dict(self) -> dict[str, Any]:
        """The figure as JSON takes it, with the verdict."""
        return asdict(self) | {"kept": self.kept}


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the value below which ``share`` (0 to 1) of an ordered sequence lies; never an average of two."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def distribution(name: str, seconds: Iterable[float], **more: Any) -> Figure:
    """Makes a figure in milliseconds from durations in seconds."""
    ordered = sorted(seconds)
    return Figure(
        name=name,
        unit="ms",
        value=percentile(ordered, 0.5) * 1e3,
        low=ordered[0] * 1e3,
        p99=percentile(ordered, 0.99) * 1e3,
        count=len(ordered),
        **more,
    )


def middle(seconds: Iterable[float]) -> float:
    """Returns the median."""
    return percentile(sorted(seconds), 0.5)


def flatness(
    what: str, low_name: str, low: Iterable[float], high_name: str, high: Iterable[float]
) -> Iterator[Figure]:
    """Yields both ends of something that must not grow, and how many times the one is the other, at most `FLAT`."""
    ends = [distribution(f"{what}, {name}", of) for name, of in ((low_name, low), (high_name, high))]
    yield from ends
    ratio = float(ends[1].value or 0) / float(ends[0].value or 1)
    yield Figure(f"{what}: {high_name} / {low_name}", "x", ratio, target=FLAT)


def missing(name: str, why: str, unit: str = "ms") -> Figure:
    """Makes the figure of something that cannot be measured here."""
    return Figure(name=name, unit=unit, value=None, note=why)
