"""Reading a context out of the log, from the newest back, and no further than is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kibo.context.entries import ContextEntry, Summary, is_context, read
from kibo.context.prompt import Prompt, Wanted, assemble
from kibo.context.standing import KINDS, Standing, applies, standing_of
from kibo.context.units import CLOSING, Grouped, beginning, group
from kibo.model.errors import Bug
from kibo.store.database import Transaction
from kibo.store.log import newest_in, of_kinds_in

#: Entries of the log that are read first; each further page is twice as long, up to the log's own bound.
_PAGE: Final = 128
_LARGEST: Final = 8192


def standing_in(tx: Transaction, of: str) -> Standing:
    """Reads what every prompt of a branch or a snapshot has: one index look-up a segment and kind."""
    return standing_of(made for entry in of_kinds_in(tx, of, KINDS) if (made := read(entry)) is not None)


def prompt_in(tx: Transaction, of: str, wanted: Wanted) -> Prompt:
    """Makes the prompt of a branch or a snapshot. Cost is in what it shows, not in how long the history is."""
    standing = standing_in(tx, of)
    for grouped, whole in backwards(tx, of, standing):
        made = assemble(standing, grouped, wanted, whole=whole)
        if made is not None:
            return made
    raise Bug("a whole context gave no prompt")


def backwards(tx: Transaction, of: str, standing: Standing) -> Iterator[tuple[Grouped, bool]]:
    """Yields ever more of the newest units that come after the summary, and whether they are all."""
    found: list[ContextEntry] = []
    for entries, whole in pages(tx, of, standing.floor):
        found = entries + found
        # What comes before the first that ends calls may belong to a call that has not been read.
        begin = 0 if whole else beginning(found)
        if whole or begin < len(found):
            yield group(visible(found[begin:])), whole


def pages(tx: Transaction, of: str, floor: int) -> Iterator[tuple[list[ContextEntry], bool]]:
    """Yields the entries of numbers above `floor`, the newest page first, and whether a page is the last."""
    before: int | None = None
    width = _PAGE
    while True:
        page = newest_in(tx, of, width, before)
        whole = len(page) < width or page[0].seq <= floor + 1
        wanted = (entry for entry in page if entry.seq > floor and is_context(entry.kind))
        yield [made for entry in wanted if (made := read(entry)) is not None], whole
        if whole:
            return
        before, width = page[0].seq, min(width * 2, _LARGEST)


def visible(entries: list[ContextEntry]) -> list[ContextEntry]:
    """Leaves out the summaries that stand before everything else, or did so before another."""
    return [entry for entry in entries if not (isinstance(entry, Summary) and applies(entry))]


def open_in(tx: Transaction, of: str) -> list[ContextEntry]:
    """Reads back to the newest entry that ends calls: what there is since then says which calls wait."""
    found: list[ContextEntry] = []
    for entries, whole in pages(tx, of, 0):
        found = entries + found
        last = max((index for index, entry in enumerate(found) if isinstance(entry, CLOSING)), default=None)
        if last is not None or whole:
            return found[last or 0 :]
    return found
