"""Vectors of entries, made by what the caller gives and kept in the store; compared one by one."""

from __future__ import annotations

import array
import functools
import heapq
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select

from kibo.context.entries import Pin, Unpin, read
from kibo.context.index import catch_up, placed_in
from kibo.context.searching import Hit, check_limit
from kibo.model.errors import ContextInvalid
from kibo.store.database import Store, Transaction
from kibo.store.log import batches
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import context_vectors, context_words

#: Texts that are given to an embedding at once.
BATCH: Final = 64
#: Numbers of one vector.
MAX_NUMBERS: Final = 16_384

_ADD: Final = insertion(context_vectors)


@dataclass(frozen=True, slots=True)
class Embedding:
    """What makes vectors of texts.

    Attributes:
        name: Under which vectors are kept; another model, another name.
        embed: Given texts, returns a vector for each, all of one length.
    """

    name: str
    embed: Callable[[Sequence[str]], Sequence[Sequence[float]]]


@functools.cache
def _lacking(size: int) -> Prepared:
    within = context_words.c.segment.in_([bindparam(f"s{number}") for number in range(size)])
    have = select(context_vectors.c.position).where(context_vectors.c.model == bindparam("model"))
    query = select(context_words.c.position).where(
        within, context_words.c.words != "", context_words.c.position.not_in(have)
    )
    return Prepared(query.order_by(context_words.c.position).limit(BATCH))


@functools.cache
def _known(size: int) -> Prepared:
    within = context_words.c.segment.in_([bindparam(f"s{number}") for number in range(size)])
    joined = select(context_vectors.c.position, context_vectors.c.vector).join_from(
        context_words, context_vectors, context_vectors.c.position == context_words.c.position
    )
    return Prepared(joined.where(within, context_vectors.c.model == bindparam("model")))


def search(store: Store, of: str, query: str, limit: int, embedding: Embedding) -> list[Hit]:
    """Finds the entries whose vectors are nearest, by the cosine of the angle; see `Context.search`.

    Raises:
        ContextInvalid: What the embedding returns are no vectors of one length. What it raises is passed on.
    """
    check_limit(limit)
    if not 0 < len(embedding.name) <= 200:
        raise ContextInvalid(
            "an embedding has no name", hint="Give 1 to 200 characters: vectors are kept under it."
        )
    (wanted,) = _vectors(embedding, [query])
    segments = catch_up(store, of)
    for some, named in batches(segments):
        while lacking := store.read(lambda tx: tx.rows(_lacking(len(some)), model=embedding.name, **named)):  # noqa: B023
            _embed(store, embedding, [int(position) for (position,) in lacking], len(wanted))
    best = heapq.nlargest(limit, _near(store, segments, wanted, embedding.name))
    at = store.read(lambda tx: placed_in(tx, [position for _, position in best]))
    found = ((read(at[position]), score) for score, position in best if position in at)
    return [Hit(entry, score) for entry, score in found if entry is not None]


def _embed(store: Store, embedding: Embedding, positions: Sequence[int], length: int) -> None:
    at = store.read(lambda tx: placed_in(tx, positions))
    made = {position: read(at[position]) for position in positions if position in at}
    texts = {
        p: entry.text for p, entry in made.items() if entry is not None and not isinstance(entry, Pin | Unpin)
    }
    vectors = _vectors(embedding, list(texts.values()), length)
    rows = [
        {"position": position, "model": embedding.name, "vector": _packed(vector)}
        for position, vector in zip(texts, vectors, strict=True)
    ]

    def work(tx: Transaction) -> None:
        known = {int(row[0]) for row in tx.rows(_having(len(rows)), model=embedding.name, **_places(rows))}
        tx.run_all(_ADD, [row for row in rows if row["position"] not in known])

    if rows:
        store.write(work)


@functools.cache
def _having(size: int) -> Prepared:
    return Prepared(
        select(context_vectors.c.position).where(
            context_vectors.c.model == bindparam("model"),
            context_vectors.c.position.in_([bindparam(f"s{number}") for number in range(size)]),
        )
    )


def _places(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    return {f"s{number}": row["position"] for number, row in enumerate(rows)}


def _vectors(embedding: Embedding, texts: Sequence[str], length: int | None = None) -> list[list[float]]:
    """Has vectors made, of length 1."""
    given = embedding.embed(texts)
    made = [[float(number) for number in vector] for vector in given]
    lengths = {len(vector) for vector in made} | ({length} if length is not None else set())
    if len(made) != len(texts) or len(lengths) != 1 or not 0 < min(lengths) <= MAX_NUMBERS:
        raise ContextInvalid(
            f"embedding {embedding.name!r} gave {len(made)} vectors of lengths {sorted(lengths)} to {len(texts)}",
            hint="It returns one for each text, all of one length. Another model needs another name.",
            details={"embedding": embedding.name, "lengths": sorted(lengths)},
        )
    return [_normal(vector, embedding.name) for vector in made]


def _normal(vector: list[float], name: str) -> list[float]:
    size = math.sqrt(math.fsum(number * number for number in vector))
    if not math.isfinite(size):
        raise ContextInvalid(
            f"embedding {name!r} gave a number that is none", hint="Vectors have finite numbers."
        )
    return [number / size for number in vector] if size else vector


def _packed(vector: Sequence[float]) -> bytes:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _unpacked(raw: bytes) -> array.array[float]:
    numbers = array.array("f")
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _near(
    store: Store, segments: Sequence[int], wanted: Sequence[float], model: str
) -> Iterator[tuple[float, int]]:
    for some, named in batches(segments):
        rows = store.read(lambda tx: tx.rows(_known(len(some)), model=model, **named))  # noqa: B023
        for position, raw in rows:
            if len(raw) != 4 * len(wanted):
                raise ContextInvalid(
                    f"embedding {model!r} gave vectors of {len(raw) // 4} numbers before, and of {len(wanted)} now",
                    hint="Give another model another name.",
                    details={"embedding": model, "position": int(position)},
                )
            yield sum(map(float.__mul__, wanted, _unpacked(raw))), int(position)
