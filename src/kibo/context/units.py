"""What a prompt has whole or not at all: an entry, or tools' calls together with all of their results.

A call waits for its results. While it does, it and what follows it are not shown. It is over when all have come, or
when a user or a model says something else; what has no result by then is told as without one, for ever, and a result
that comes later has no call. So what a prompt has shown once is never shown otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kibo.context.entries import Assistant, ContextEntry, Memory, Note, Summary, ToolCall, ToolResult, User
from kibo.context.parts import Call
from kibo.model.ids import EntryId

#: What ends the calls before it.
CLOSING: Final = (User, Assistant)
#: What is shown where it stands, and ends nothing.
_ASIDE: Final = (Note, Memory, Summary)


@dataclass(frozen=True, slots=True)
class Unit:
    """Entries that are shown together.

    Attributes:
        entries: What they are, in order: of a group, what called first.
    """

    entries: tuple[ContextEntry, ...]

    @property
    def id(self) -> EntryId:
        """Its first entry's."""
        return self.entries[0].id

    @property
    def seq(self) -> int:
        """Its first entry's number."""
        return self.entries[0].seq

    @property
    def last(self) -> ContextEntry:
        """The entry of the highest number."""
        return max(self.entries, key=lambda entry: entry.seq)

    def calls(self) -> tuple[Call, ...]:
        """The calls in it."""
        return tuple(call for entry in self.entries for call in calls_of(entry))

    def results(self) -> dict[str, ToolResult]:
        """The results in it, by the ids of their calls."""
        return {entry.call_id: entry for entry in self.entries if isinstance(entry, ToolResult)}


@dataclass(slots=True)
class _Open:
    """Calls that wait."""

    entries: list[ContextEntry]
    waiting: dict[str, None]
    after: list[ContextEntry] = field(default_factory=list)

    def closed(self) -> list[Unit]:
        return [Unit(tuple(self.entries)), *(Unit((entry,)) for entry in self.after)]


@dataclass(frozen=True, slots=True)
class Grouped:
    """A stretch of a context, as what prompts show.

    Attributes:
        units: In order.
        pending: Calls that wait for a result, and what follows them; not shown yet.
        waiting: The ids of those calls.
        astray: Results that have no call, or whose call has one already; never shown.
    """

    units: tuple[Unit, ...]
    pending: tuple[ContextEntry, ...]
    waiting: tuple[str, ...]
    astray: tuple[ToolResult, ...]


def calls_of(entry: ContextEntry) -> tuple[Call, ...]:
    """Returns the calls that an entry makes."""
    if isinstance(entry, Assistant):
        return entry.calls
    return (entry.call,) if isinstance(entry, ToolCall) else ()


def group(entries: Iterable[ContextEntry]) -> Grouped:
    """Puts entries together that a prompt has whole or not at all. Those that none shows are passed over.

    Args:
        entries: In order, from one that ends what was before it, or from the very first.
    """
    units: list[Unit] = []
    astray: list[ToolResult] = []
    now: _Open | None = None
    for entry in entries:
        if isinstance(entry, ToolResult):
            if now is None or entry.call_id not in now.waiting:
                astray.append(entry)
                continue
            now.entries.append(entry)
            del now.waiting[entry.call_id]
            if not now.waiting:
                units += now.closed()
                now = None
        elif isinstance(entry, ToolCall) and now is not None and not _has(now, entry.call):
            now.entries.append(entry)
            now.waiting[entry.call.id] = None
        elif isinstance(entry, (*CLOSING, ToolCall)):
            if now is not None:
                units += now.closed()
                now = None
            calls = calls_of(entry)
            if calls:
                now = _Open([entry], {call.id: None for call in calls})
            else:
                units.append(Unit((entry,)))
        elif isinstance(entry, _ASIDE):
            if now is not None:
                now.after.append(entry)
            else:
                units.append(Unit((entry,)))
    pending = () if now is None else (*now.entries, *now.after)
    return Grouped(tuple(units), pending, () if now is None else tuple(now.waiting), tuple(astray))


def _has(now: _Open, call: Call) -> bool:
    return any(known.id == call.id for entry in now.entries for known in calls_of(entry))


def beginning(entries: Sequence[ContextEntry]) -> int:
    """Returns the index of the first entry that ends what was before it; their number where there is none."""
    return next((index for index, entry in enumerate(entries) if isinstance(entry, CLOSING)), len(entries))
