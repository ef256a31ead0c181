"""Compaction: a summary takes the place of the oldest entries in prompts. The entries stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kibo.context.canonical import checked_text
from kibo.context.entries import ContextEntry, Covered, Summary, is_context, read
from kibo.context.parts import Text
from kibo.context.reading import backwards, standing_in, visible
from kibo.context.rendering import pieces_of, tokens_of
from kibo.context.tokens import Tokenizer
from kibo.context.units import Unit, group
from kibo.context.window import filling
from kibo.model.errors import Conflict, ContextInvalid, SummaryInvalid
from kibo.model.ids import EntryId
from kibo.store import crash
from kibo.store.database import Transaction
from kibo.store.log import following_in

#: Entries that one summary covers at most, besides those under the one before it: what one call of a model reads.
MAX_COVERED: Final = 10_000
_PAGE: Final = 2000


@dataclass(frozen=True, slots=True)
class Summarised:
    """What a summariser may return instead of text: how far it has come.

    Attributes:
        text: The summary.
        covers: The entries that it stands for, of those given from the first on, in order.
    """

    text: str
    covers: Sequence[str]


#: Given entries in order, and the summary before them or None, returns what to show in the place of both.
Summarise = Callable[[Sequence[ContextEntry], Summary | None], str | Summarised]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is to be summarised.

    Attributes:
        units: In order.
        previous: The summary that stands before it.
    """

    units: tuple[Unit, ...]
    previous: Summary | None

    @property
    def entries(self) -> tuple[ContextEntry, ...]:
        """What prompts show of it, in order."""
        return tuple(entry for unit in self.units for entry in unit.entries)


def stretch_in(tx: Transaction, of: str, keep_tokens: int, tokenizer: Tokenizer) -> Stretch:
    """Finds what is to be summarised: all since the last summary but the newest, and `MAX_COVERED` entries at most."""
    standing = standing_in(tx, of)
    kept = None
    for grouped, whole in backwards(tx, of, standing):
        sizes = [tokens_of(pieces_of(unit, "openai"), tokenizer) for unit in grouped.units]
        first = filling(sizes, keep_tokens)
        if first or whole:
            if first == 0:
                return Stretch((), standing.summary)
            kept = grouped.units[first].seq if first < len(sizes) else None
            pending = grouped.pending[0].seq if grouped.pending else None
            kept = pending if kept is None else kept
            break
    return Stretch(_until(tx, of, standing.floor, kept), standing.summary)


def _until(tx: Transaction, of: str, floor: int, kept: int | None) -> tuple[Unit, ...]:
    """Reads the units from a number to the one that is kept, whole ones alone."""
    found: list[ContextEntry] = []
    after, more = floor, True
    while more and len(found) < MAX_COVERED:
        page = following_in(tx, of, after, _PAGE)
        more = len(page) == _PAGE
        wanted = [each for each in page if is_context(each.kind) and (kept is None or each.seq < kept)]
        found += [made for each in wanted if (made := read(each)) is not None]
        more = more and len(wanted) == sum(is_context(each.kind) for each in page)
        after = page[-1].seq if page else after
    grouped = group(visible(found[:MAX_COVERED]))
    units = list(grouped.units)
    # What follows may lie within what is covered: a note that was written while a call was waiting.
    rest = min((entry.seq for entry in (*grouped.pending, *found[MAX_COVERED:])), default=kept)
    while units and rest is not None and units[-1].last.seq >= rest:
        rest = min(rest, units.pop().seq)
    return tuple(units)


def summarised(stretch: Stretch, summarise: Summarise, of: str) -> Summary:
    """Calls a summariser, and believes it no further than what it was given.

    Raises:
        SummaryInvalid: It claims to cover what it was not given, or a part of a call and its results; or its text is
            none.
    """
    entries = stretch.entries
    said = summarise(entries, stretch.previous)
    text, units = said, stretch.units
    if isinstance(said, Summarised):
        text, units = said.text, _claimed(stretch, list(said.covers), of)
    try:
        checked = checked_text(text, "a summary")
    except ContextInvalid as error:
        raise SummaryInvalid(
            f"the summariser returned no text: {error.message}", hint=error.hint, details=error.details
        ) from error
    if not checked.strip():
        raise SummaryInvalid(
            "the summariser returned an empty text", hint="Nothing was written; call compact again."
        )
    covered = [entry for unit in units for entry in unit.entries]
    before = stretch.previous
    count = len(covered) + (0 if before is None else before.covers.count)
    first = covered[0].id if before is None else before.covers.first
    last = max(covered, key=lambda entry: entry.seq)
    return Summary(id=EntryId.new(), parts=(Text(checked),), covers=Covered(first, last.id, last.seq, count))


def _claimed(stretch: Stretch, covers: list[str], of: str) -> tuple[Unit, ...]:
    given = [entry.id for entry in stretch.entries]
    ends = {0}
    for unit in stretch.units:
        ends.add(max(ends) + len(unit.entries))
    if not covers or covers != given[: len(covers)] or len(covers) not in ends:
        strange = [entry for entry in covers if entry not in given]
        raise SummaryInvalid(
            f"the summariser claims {len(covers)} entries that are not the first of the {len(given)} it was given",
            hint="Name the entries from the first given on, in order, a call never without its results. Nothing was "
            "written, and prompts are as they were.",
            details={"of": of, "not_given": strange[:10], "given": len(given), "claimed": len(covers)},
        )
    count, index = 0, 0
    while count < len(covers):
        count += len(stretch.units[index].entries)
        index += 1
    units = stretch.units[:index]
    rest = min((unit.seq for unit in stretch.units[index:]), default=None)
    if rest is not None and max(unit.last.seq for unit in units) >= rest:
        raise SummaryInvalid(
            "the summariser's coverage ends between a call and a note that was written while it waited",
            hint="Cover the note too, or end before the call.",
            details={"of": of},
        )
    return units


def check_unmoved(tx: Transaction, of: str, previous: Summary | None) -> None:
    """Checks that no other summary was written while this one was made.

    Raises:
        Conflict: One was.
    """
    crash.point("context.before_summary")
    now = standing_in(tx, of).summary
    if (now.id if now else None) != (previous.id if previous else None):
        raise Conflict(
            "another summary was written while this one was made",
            hint="Call compact again: it goes on from that one.",
            details={"of": of},
        )
