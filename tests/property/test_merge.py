"""Merging, against a model that knows nothing of layers: dictionaries of paths."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from edits import START, series
from kibo.model.errors import MergeConflict
from kibo.runtime.trees.conflict import DELETE, OURS, THEIRS, Conflict, Resolution
from kibo.runtime.trees.lines import merged
from kibo.runtime.trees.merge import merge_trees
from overlays import Overlays

given_edits = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
Entry = list[Any]
Shown = dict[str, Entry]


class Clash(Exception):
    """The model cannot join this."""


def three(base: Any, one: Any, two: Any) -> Any:
    if one == two or two == base:
        return one
    if one == base:
        return two
    raise Clash


def join_entry(base: Entry | None, one: Entry | None, two: Entry | None) -> Entry | None:
    if one == two or two == base:
        return one
    if one == base:
        return two
    if one is None or two is None or one[0] != two[0]:
        raise Clash
    if base is not None and base[0] != one[0]:
        base = None
    was = base or [None, None, None, {}]
    try:
        content = three(was[2], one[2], two[2])
    except Clash:
        texts = [bytes.fromhex(entry[2]) for entry in (base, one, two) if entry is not None]
        text = stat.S_ISREG(one[0]) and len(texts) == 3 and not any(b"\0" in text for text in texts)
        joined = merged(*texts) if text else None
        if joined is None:
            raise
        content = joined.hex()
    names = one[3].keys() | two[3].keys()
    attributes = {name: three(was[3].get(name), one[3].get(name), two[3].get(name)) for name in names}
    return [
        one[0], three(was[1], one[1], two[1]), content, {n: v for n, v in sorted(attributes.items()) if v is not None},
    ]  # fmt: skip


def model(base: Shown, one: Shown, two: Shown) -> Shown | None:
    """The merge, or None where something conflicts."""
    found: Shown = {}
    try:
        for path in base.keys() | one.keys() | two.keys():
            if (entry := join_entry(base.get(path), one.get(path), two.get(path))) is not None:
                found[path] = entry
    except Clash:
        return None
    for path in found:
        above = os.path.dirname(path)
        if above and (above not in found or not stat.S_ISDIR(found[above][0])):
            return None
    return found


class Sides:
    """A base and two sides of it, as the kernel wrote them."""

    def __init__(self, overlays: Overlays, start: Any, ours: Any, theirs: Any) -> None:
        self.overlays = overlays
        self.base = [overlays.tree([*START, *start])]
        self.ours, self.theirs = self._deltas(ours), self._deltas(theirs)
        self.shown = [
            overlays.shown(layers) for layers in (self.base, self.base + self.ours, self.base + self.theirs)
        ]

    def _deltas(self, edits: Any) -> Any:
        half = len(edits) // 2
        first = self.overlays.delta([self.overlays.place / "empty", *self.base], edits[:half])
        return [first, self.overlays.delta([self.overlays.place / "empty", *self.base, first], edits[half:])]

    def merge(self, resolver: Any = None) -> Shown:
        into = self.overlays.fresh("merged")
        into.mkdir()
        merge_trees(self.base, self.ours, self.theirs, into, resolver)
        return self.overlays.shown([*self.base, *self.ours, into])


@given_edits
@given(start=series(3), ours=series(6), theirs=series(6))
def test_a_merge_joins_what_the_model_joins_and_conflicts_where_it_does(
    overlays: Overlays, start: Any, ours: Any, theirs: Any
) -> None:
    sides = Sides(overlays, start, ours, theirs)
    expected = model(*sides.shown)
    if expected is None:
        with pytest.raises(MergeConflict) as caught:
            sides.merge()
        assert caught.value.conflicts
        assert len(caught.value.details["paths"]) == len(caught.value.conflicts)
    else:
        assert sides.merge() == expected


@given_edits
@given(start=series(3), ours=series(6), theirs=series(6))
def test_every_conflict_can_be_resolved_each_way(
    overlays: Overlays, start: Any, ours: Any, theirs: Any
) -> None:
    sides = Sides(overlays, start, ours, theirs)
    base, one, two = sides.shown
    for said in (OURS, THEIRS, DELETE, Resolution.write(b"decided", 0o640)):
        asked: list[Conflict] = []

        def resolver(
            conflict: Conflict, said: Resolution = said, asked: list[Conflict] = asked
        ) -> Resolution:
            asked.append(conflict)
            return said

        result = sides.merge(resolver)
        for conflict in asked:
            path = os.fsdecode(conflict.path)
            for node, shown in ((conflict.base, base), (conflict.ours, one), (conflict.theirs, two)):
                assert (node is None) == (path not in shown)
            below = path + "/"
            if said is DELETE:
                assert path not in result
            elif said.choice == "content":
                assert result[path][:3] == [stat.S_IFREG, 0o640, b"decided".hex()]
            else:
                side = one if said is OURS else two
                assert result.get(path) == side.get(path)
                kept = {name: entry for name, entry in result.items() if name.startswith(below)}
                if conflict.kind in ("type", "deleted") and path in side:
                    assert kept == {name: entry for name, entry in side.items() if name.startswith(below)}
        if not asked:
            assert result == model(base, one, two)
