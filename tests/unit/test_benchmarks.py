"""What the benchmarks decide: how many times one end is the other, and which node a search goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.figures import FLAT, flatness
from benchmarks.search import Node, choose
from benchmarks.workspaces import make_tree


@pytest.mark.parametrize(("far", "kept"), [(0.0015, True), (0.0016, False)])
def test_what_must_not_grow_keeps_its_promise_up_to_the_bound(far: float, kept: bool) -> None:
    near, farther, ratio = flatness("a step", "near", [0.001, 0.001, 0.5], "far", [far, far, 0.5])
    assert (near.name, near.kept) == ("a step, near", None)
    assert (farther.name, farther.kept) == ("a step, far", None)
    assert ratio.name == "a step: far / near"
    assert ratio.value == pytest.approx(far / 0.001)
    assert (ratio.target, ratio.kept) == (FLAT, kept)


def node(score: int, visits: int) -> Node:
    return Node(None, score, visits)  # type: ignore[arg-type] - nothing is asked of the branch


def test_a_node_that_was_never_tried_comes_first() -> None:
    fresh = node(0, 0)
    assert choose([node(40, 5), fresh, node(10, 1)]) is fresh


def test_of_two_equal_nodes_the_one_that_was_tried_less_comes_first() -> None:
    seldom = node(10, 3)
    assert choose([node(10, 9), seldom]) is seldom


def test_a_node_that_is_far_better_comes_first_although_it_was_tried_often() -> None:
    good = node(30, 20)
    assert choose([node(2, 5), good, node(3, 5)]) is good


def test_a_tree_has_as_many_files_as_were_asked_for(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 250)
    assert len(list(tree.rglob("*.txt"))) == 250
    assert len(list(tree.iterdir())) == 3
    assert (tree / "0/1.txt").read_text() == "line of file 1\n"
