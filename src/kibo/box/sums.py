"""Composition: sums of boxes, and the digests of definitions.

A sum is a flat list of parts, without repetition, and the conflicts that `|` settled. From that the laws follow:
`(a + b) + c == a + (b + c)`, `Box() + a == a == a + Box()`, `a + a == a`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kibo.box.conflicts import Yield, check, conflicts, winners
from kibo.box.define import Box, is_box
from kibo.box.identity import describe, digest_bytes
from kibo.box.skills import guidance_of
from kibo.model.errors import InvalidDefinition
from kibo.model.limits import MAX_PARTS

_DIGEST = "_kibo_digest"


class Sum(Box):
    """Boxes composed. Made by `+` and `|`, never directly."""

    if TYPE_CHECKING:  # for the type checker alone: annotations of a Box are its parameters
        parts: tuple[Box, ...]
        yields: frozenset[Yield]

    def __repr__(self) -> str:
        return (
            " + ".join(map(repr, self.parts)) if not self.yields else f"({' | '.join(map(repr, self.parts))})"
        )


def parts_of(box: Box) -> tuple[Box, ...]:
    """Returns the single boxes that a definition is made of, in order of launch; none for `Box()`."""
    if isinstance(box, Sum):
        return box.parts
    return () if type(box) is Box else (box,)


def yields_of(box: Box) -> frozenset[Yield]:
    """Returns the conflicts that the definition settles."""
    return box.yields if isinstance(box, Sum) else frozenset()


def prefix(box: Box, count: int) -> Box:
    """Returns the sum of the first `count` parts of a definition, whose cached state the whole is built on."""
    return sum_of(parts_of(box)[:count], yields_of(box))


def add(left: Box, right: Box) -> Box:
    """`left + right`; see `Box.__add__`."""
    return sum_of(parts_of(left) + parts_of(right), yields_of(left) | yields_of(right))


def override(left: Box, right: Box) -> Box:
    """`left | right`: where a part of the left conflicts with one of the right, the left one yields."""
    ours, theirs = parts_of(left), parts_of(right)
    their_digests = {part.digest for part in theirs}
    settled = set(yields_of(right))
    for one, other, claim in conflicts(_distinct(ours + theirs)):
        for loser, winner in ((one, other), (other, one)):
            if winner.digest in their_digests and loser.digest not in their_digests:
                settled.add(Yield(claim.kind, claim.key, loser.digest, winner.digest))
    turned = {Yield(y.kind, y.key, y.winner, y.loser) for y in settled}
    return sum_of(ours + theirs, frozenset(settled | (yields_of(left) - turned)))


def _distinct(parts: Sequence[Box]) -> tuple[Box, ...]:
    first: dict[str, Box] = {}
    for part in parts:
        first.setdefault(part.digest, part)
    return tuple(first.values())


def sum_of(parts: Sequence[Box], yields: frozenset[Yield]) -> Box:
    """Returns the sum of parts; conflicts between them that are not settled are an error, as for `+`."""
    distinct = _distinct(parts)
    if len(distinct) > MAX_PARTS:
        raise InvalidDefinition(
            f"a sum of {len(distinct)} parts: at most {MAX_PARTS} fit in one box",
            hint="Let a class inherit from several of them, or use several boxes.",
        )
    if not distinct:
        return Box()
    if len(distinct) == 1:
        return distinct[0]
    check(distinct, yields)
    winners(distinct, yields)
    made = Sum.__new__(Sum)
    made.__dict__.update(parts=distinct, yields=yields)
    return made


def digest_of(box: Box) -> str:
    """Returns the digest of a definition, computed once per value (about half a millisecond for a small class)."""
    known: str | None = box.__dict__.get(_DIGEST)
    if known is None:
        if not is_box(box):
            raise InvalidDefinition(f"{box!r} is not a box", hint="Give an instance of a Box class.")
        known = _part_digest(box) if not isinstance(box, Sum) else prefix_digest(box.parts, box.yields)
        box.__dict__[_DIGEST] = known
    return known


def prefix_digest(parts: Sequence[Box], yields: frozenset[Yield]) -> str:
    """Returns the digest of the sum of `parts`, with those of `yields` that are between two of them.

    A prefix of a sum so has the digest of the sum that one would write for it alone, and shares its cached state.
    """
    if len(parts) == 1:
        return digest_of(parts[0])
    digests = [digest_of(part) for part in parts]
    inside = sorted(y for y in yields if y.loser in digests and y.winner in digests)
    return digest_bytes(b"sum", describe(digests), describe([tuple(y) for y in inside]))


def _part_digest(box: Box) -> str:
    cls = type(box)
    parameters = {name: value for name, value in box.__dict__.items() if not name.startswith("_")}
    return digest_bytes(b"box", describe(cls, cls), describe(parameters, cls), guidance_of(cls).encode())
