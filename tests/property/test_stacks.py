"""Stacks of layers, against what the kernel shows of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edits import START, series
from kibo.runtime.trees.changes import changed_paths, changes
from kibo.runtime.trees.flatten import flatten_trees
from kibo.runtime.trees.stack import Node, Stack
from overlays import Overlays

given_edits = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
Shown = dict[str, list[Any]]


def seen(stack: Stack) -> Shown:
    """What our reader shows of a stack, in the form of `overlays.dumped`."""
    found: Shown = {}
    pending = list(stack.root.children())
    while pending:
        node = pending.pop()
        found[os.fsdecode(node.path)] = described(node)
        if node.kind == "directory":
            pending += node.children()
    return found


def described(node: Node) -> list[Any]:
    content = node.target() if node.kind == "link" else node.read() if node.kind == "file" else b""
    attributes = {name: value.hex() for name, value in node.attributes().items()}
    mode = 0 if node.kind == "link" else node.mode
    return [stat.S_IFMT(node.info.st_mode), mode, content.hex(), attributes]


def chain(overlays: Overlays, base: list[Path], series_of: list[list[Any]]) -> list[Path]:
    """Deltas that the kernel wrote over each other."""
    deltas: list[Path] = []
    for edits in series_of:
        deltas.append(overlays.delta([overlays.place / "empty", *base, *deltas], edits))
    return deltas


@given_edits
@given(start=series(6), more=st.lists(series(8), min_size=1, max_size=4))
def test_a_stack_reads_as_the_kernel_shows_it(overlays: Overlays, start: Any, more: Any) -> None:
    base = overlays.tree([*START, *start])
    deltas = chain(overlays, [base], more)
    with Stack([base, *deltas]) as stack:
        shown = overlays.shown([base, *deltas])
        assert seen(stack) == shown
        for path in shown:
            node = stack.find(os.fsencode(path))
            assert node is not None
            assert described(node) == shown[path]
        assert stack.find(b"no/such") is None


@given_edits
@given(start=series(6), more=st.lists(series(8), min_size=1, max_size=4))
def test_changes_are_what_differs(overlays: Overlays, start: Any, more: Any) -> None:
    base = overlays.tree([*START, *start])
    deltas = chain(overlays, [base], more)
    before, after = overlays.shown([base]), overlays.shown([base, *deltas])
    differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    with Stack([base]) as stack:
        found = list(changes(stack, deltas))
        assert {os.fsdecode(path) for path in changed_paths(stack, deltas)} == differing
        order = [change.path.split(b"/") for change in found]
        assert order == sorted(order)
        assert len({change.path for change in found}) == len(found)
        for change in found:
            path = os.fsdecode(change.path)
            assert (change.before is None) == (path not in before)
            assert (change.after is None) == (path not in after)
            if change.kind == "changed":
                was, now = before[path], after[path]
                assert change.content == ([was[0], was[2]] != [now[0], now[2]])
                assert was[0] == 0o120000 or was[0] != now[0] or change.attributes == (was[1::2] != now[1::2])


@given_edits
@given(
    start=series(6), more=st.lists(series(8), min_size=2, max_size=4), other=series(6), cut=st.integers(0, 2)
)
def test_flattening_changes_nothing_over_any_base(
    overlays: Overlays, start: Any, more: Any, other: Any, cut: int
) -> None:
    base = overlays.tree([*START, *start])
    deltas = chain(overlays, [base], more)
    first = min(cut, len(deltas) - 2)
    flat = overlays.fresh("flat")
    flat.mkdir()
    flatten_trees(deltas[first:], flat)
    assert overlays.shown([base, *deltas[:first], flat]) == overlays.shown([base, *deltas])
    foreign = overlays.tree(other)
    assert overlays.shown([foreign, *deltas[:first], flat]) == overlays.shown([foreign, *deltas])


@given_edits
@given(more=st.lists(series(6), min_size=2, max_size=3))
def test_hard_links_and_times_survive_flattening(overlays: Overlays, more: Any) -> None:
    base = overlays.tree(START)
    deltas = chain(overlays, [base], [[["write", "h", "x"], ["link", "a/h", "h"]], *more])
    flat = overlays.fresh("flat")
    flat.mkdir()
    flatten_trees(deltas, flat)
    with Stack([base, *deltas]) as old, Stack([base, flat]) as new:
        for path in seen(old):
            was, now = old.find(os.fsencode(path)), new.find(os.fsencode(path))
            assert was is not None
            assert now is not None
            assert was.info.st_mtime_ns == now.info.st_mtime_ns
        one, two = (old.find(path) for path in (b"h", b"a/h"))
        if one is not None and two is not None and one.info.st_ino == two.info.st_ino:
            one, two = (new.find(path) for path in (b"h", b"a/h"))
            assert one is not None
            assert two is not None
            assert one.info.st_ino == two.info.st_ino
