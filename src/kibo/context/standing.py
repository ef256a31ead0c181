"""What every prompt has, wherever it begins: instructions, what is pinned, and the summary of what came before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kibo.context.entries import ContextEntry, Pin, Summary, System, Unpin, kind_of
from kibo.context.units import Unit

#: The kinds of entries that say what stands, however far back they are.
KINDS: Final = tuple(kind_of(cls) for cls in (System, Pin, Unpin, Summary))


@dataclass(frozen=True, slots=True)
class Standing:
    """What every prompt has.

    Attributes:
        systems: The instructions, in order.
        pinned: What is pinned, in the order of the history.
        summary: What stands for the entries up to a number; None for nothing.
    """

    systems: tuple[System, ...] = ()
    pinned: tuple[Unit, ...] = ()
    summary: Summary | None = None

    @property
    def floor(self) -> int:
        """The number of the last entry that the summary stands for."""
        return 0 if self.summary is None else self.summary.covers.through

    @property
    def shown(self) -> tuple[ContextEntry, ...]:
        """What is shown of it in any case, besides what is pinned."""
        return self.systems if self.summary is None else (*self.systems, self.summary)


def applies(summary: Summary) -> bool:
    """Tells whether a summary stands for what it covers: one that a merge brought counts other numbers than these."""
    return summary.origin is None and summary.covers.through < summary.seq


def _replaces(summary: Summary, known: Summary | None) -> bool:
    return applies(summary) and (known is None or summary.covers.through >= known.covers.through)


def standing_of(entries: Iterable[ContextEntry]) -> Standing:
    """Finds what stands, of all entries of `KINDS` in order."""
    systems: list[System] = []
    pins: dict[str, Unit] = {}
    summary: Summary | None = None
    for entry in entries:
        if isinstance(entry, System):
            systems.append(entry)
        elif isinstance(entry, Pin) and entry.held:
            unit = Unit(entry.held)
            pins.setdefault(unit.id, unit)
        elif isinstance(entry, Unpin):
            pins = {
                name: unit
                for name, unit in pins.items()
                if all(held.id != entry.entry for held in unit.entries)
            }
        elif isinstance(entry, Summary) and _replaces(entry, summary):
            summary = entry
    pinned = sorted(pins.values(), key=lambda unit: (unit.seq, unit.id))
    return Standing(tuple(systems), tuple(pinned), summary)
