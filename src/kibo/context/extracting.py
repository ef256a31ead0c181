"""The summary that needs no model: the sentences that say most of what a stretch of a context is about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from kibo.context.entries import ContextEntry, Summary
from kibo.context.estimating import estimate
from kibo.context.words import words_of

#: Tokens that it may have, by Kibo's estimate.
MAX_TOKENS: Final = 600
#: Characters of one sentence, beyond which it is cut.
_MAX_SENTENCE: Final = 300
_ENDS: Final = re.compile(r"(?<=[.!?])\s+|\n+")


def extract(entries: Sequence[ContextEntry], previous: Summary | None = None) -> str:
    """Picks sentences, in their order: those whose words are frequent here, and the first of each user's message.

    The same entries give the same text everywhere. About 20 us an entry.

    Args:
        entries: What to say less of, in order.
        previous: The summary that stood before them; its sentences are picked from, too.
    """
    sentences: list[tuple[str, str, bool]] = []
    for entry in ([] if previous is None else [previous]) + list(entries):
        pieces = [piece.strip() for piece in _ENDS.split(entry.text) if piece.strip()]
        sentences += [
            (entry.word, piece[:_MAX_SENTENCE], not n and entry.word == "user")
            for n, piece in enumerate(pieces)
        ]
    counts = Counter(word for _, text, _ in sentences for word in set(words_of(text)))
    ranked = sorted(range(len(sentences)), key=lambda n: (-_weight(sentences[n], counts), n))
    kept: list[int] = []
    left, said = MAX_TOKENS, set[str]()
    for number in ranked:
        word, text, _ = sentences[number]
        size = estimate(f"{word}: {text}\n")
        if text not in said and size <= left:
            kept.append(number)
            said.add(text)
            left -= size
    lines = [
        text if word == Summary.word else f"{word}: {text}"
        for word, text, _ in (sentences[n] for n in sorted(kept))
    ]
    return "\n".join(lines) or f"{len(entries)} entries without text"


def _weight(sentence: tuple[str, str, bool], counts: Counter[str]) -> float:
    """Says how much a sentence says: the mean count of its words, more for long ones, twice for a beginning."""
    _, text, begins = sentence
    words = set(words_of(text))
    if not words:
        return 0.0
    weight = sum(counts[word] for word in words) / (len(words) + 3)
    return 2 * weight if begins else weight
