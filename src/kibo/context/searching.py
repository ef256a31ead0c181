"""Searching a context: by words, and by what a caller's embeddings say is near."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kibo.context.entries import ContextEntry, read
from kibo.context.index import catch_up, matching_in, placed_in
from kibo.context.words import encoded, words_of
from kibo.model.errors import ContextInvalid
from kibo.store.database import Store, Transaction

#: Entries that are looked at more closely, the newest that match.
CANDIDATES: Final = 1000
#: Different words of one query.
MAX_WORDS: Final = 32
MAX_HITS: Final = 1000


@dataclass(frozen=True, slots=True)
class Hit:
    """What a search found.

    Attributes:
        entry: The entry.
        score: How well it matches; to be compared within one search alone.
    """

    entry: ContextEntry
    score: float


def check_limit(limit: int) -> None:
    """Checks how many hits are wanted.

    Raises:
        ContextInvalid: None, or too many.
    """
    if not 1 <= limit <= MAX_HITS:
        raise ContextInvalid(f"a search for {limit} entries", hint=f"Ask for 1 to {MAX_HITS:,}.")


def search(store: Store, of: str, query: str, limit: int) -> list[Hit]:
    """Finds entries by words; see `Context.search`."""
    check_limit(limit)
    words = encoded(words_of(query))[:MAX_WORDS]
    if not words:
        raise ContextInvalid(f"{query!r} has no word to look for", hint="Give letters or digits.")
    segments = catch_up(store, of)
    return store.read(lambda tx: _found(tx, store, segments, words, limit))


def _found(
    tx: Transaction, store: Store, segments: Sequence[int], words: Sequence[str], limit: int
) -> list[Hit]:
    found = dict(matching_in(tx, store, segments, words, CANDIDATES, every=True))
    if len(found) < limit and len(words) > 1:
        found |= dict(matching_in(tx, store, segments, words, CANDIDATES, every=False))
    ranked = _ranked(found, words)[:limit]
    at = placed_in(tx, [position for position, _ in ranked])
    hits = ((read(at[position]), score) for position, score in ranked if position in at)
    return [Hit(entry, score) for entry, score in hits if entry is not None]


def _ranked(found: dict[int, str], words: Sequence[str]) -> list[tuple[int, float]]:
    """Orders what matches: by how many of the words it has, rare ones first; short before long; new before old.

    Only what was found counts for what is rare: what other branches say changes nobody's order.
    """
    have = {position: set(said.split(" ")) for position, said in found.items()}
    counts = Counter(word for position in have for word in words if word in have[position])
    weights = {word: math.log(1 + (len(found) + 1) / (count + 0.5)) for word, count in counts.items()}
    scores = {
        position: sum(weights[word] for word in words if word in said) / (1 + math.log10(9 + len(said)))
        for position, said in have.items()
    }
    return sorted(scores.items(), key=lambda each: (-round(each[1], 9), -each[0]))
