"""The laws of composition and of digests, over definitions made from data."""

import json
import os
import subprocess
import sys
from functools import reduce
from operator import add, or_
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import made_boxes
from kibo import Box, Deny
from kibo.box.plan import plan
from kibo.box.policy import find_rule
from kibo.box.sums import parts_of
from kibo.model.errors import CompositionConflict

names = st.sampled_from(["alpha", "beta", "gamma", "delta"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, -0.0, 1.0, 2.5])
    | st.text("ab☕", max_size=2)
)

specs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["Made", "Other"]),
        "skill": st.sampled_from(["", "Do this.", "Do that."]),
        "apt": st.lists(names, max_size=2, unique=True),
        "variables": st.dictionaries(names, st.sampled_from(["1", "2"]), max_size=2),
        "memory_bytes": st.integers(1, 3),
        "hosts": st.lists(names, max_size=2, unique=True),
        "denied": st.lists(names, max_size=2, unique=True),
        "methods": st.lists(st.sampled_from(["GET", "PUT"]), max_size=2, unique=True),
        "actions": st.dictionaries(names, st.integers(0, 2) | st.sampled_from(["a", "b"]), max_size=2),
        "value": st.recursive(
            scalars,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
            max_leaves=4,
        ),
    },
)
#: Boxes that conflict with no other: any sum of them exists.
peaceful = st.integers(0, 5).map(lambda n: made_boxes.make({"value": n, "apt": [f"package{n % 3}"]}))
boxes = st.just(Box()) | specs.map(made_boxes.make)
sums = st.lists(peaceful, max_size=4).map(lambda parts: reduce(add, parts, Box()))
mixed = st.lists(boxes, max_size=3).map(lambda parts: reduce(or_, parts, Box()))


def tried(compose):
    """What `compose` makes, or the fact that it is a conflict."""
    try:
        return compose()
    except CompositionConflict:
        return CompositionConflict


def canonical(spec: dict[str, Any]) -> str:
    """A specification with its defaults; equal text for equal definitions."""
    meant = {
        "name": "Made",
        "skill": "",
        "apt": [],
        "variables": {},
        "memory_bytes": None,
        "hosts": [],
        "denied": [],
        "methods": [],
        "actions": {},
    }
    meant.update(spec)
    if not meant["hosts"]:
        meant["methods"] = []  # of no rule
    return json.dumps(meant, sort_keys=True)


@given(sums, sums, sums)
def test_addition_is_associative(a, b, c):
    assert (a + b) + c == a + (b + c)


@given(boxes, boxes, boxes)
def test_addition_is_associative_in_its_conflicts_too(a, b, c):
    assert tried(lambda: (a + b) + c) == tried(lambda: a + (b + c))


@given(mixed, mixed, mixed)
def test_the_bar_is_associative(a, b, c):
    # A part that is on both sides has no one side: which of its conflicts it wins depends on how one reads it.
    assume(not {x.digest for x in parts_of(a)} & {x.digest for x in parts_of(c)})
    assert tried(lambda: (a | b) | c) == tried(lambda: a | (b | c))


@given(mixed)
def test_the_empty_box_changes_nothing(a):
    assert Box() + a == a == a + Box()
    assert Box() | a == a == a | Box()


@given(mixed)
def test_a_box_added_to_itself_is_itself(a):
    assert a + a == a
    assert a | a == a


@given(sums, sums)
def test_the_left_side_comes_first_and_keeps_its_order(a, b):
    assert parts_of(a + b)[: len(parts_of(a))] == parts_of(a)


@given(sums)
def test_every_prefix_of_a_sum_has_the_digest_of_that_sum_written_alone(whole):
    parts = parts_of(whole)
    for end, digest in enumerate(plan(whole).prefixes, 1):
        assert digest == reduce(add, parts[:end], Box()).digest


@given(boxes, boxes)
def test_the_bar_settles_every_conflict_for_the_right_side(a, b):
    settled = plan(a | b)
    for name in plan(b).actions:
        assert settled.parts[settled.actions[name].part].digest == b.digest
    assert dict(settled.env.variables) == {**plan(a).env.variables, **plan(b).env.variables}


@given(boxes, boxes)
def test_a_conflict_is_the_same_from_either_side(a, b):
    assert (tried(lambda: a + b) is CompositionConflict) == (tried(lambda: b + a) is CompositionConflict)


@given(boxes, boxes)
def test_what_either_side_denies_is_denied_and_the_larger_limit_holds(a, b):
    both = plan(a | b)
    for rule in (*plan(a).egress, *plan(b).egress):
        if isinstance(rule, Deny):
            assert isinstance(find_rule(both.egress, rule.target, 443), Deny)
    limits = [plan(side).limits.memory_bytes or 0 for side in (a, b)]
    assert (both.limits.memory_bytes or 0) == max(limits)


@given(specs, specs)
def test_digests_are_equal_exactly_where_definitions_are(one, other):
    same = canonical(one) == canonical(other)
    assert (made_boxes.make(one).digest == made_boxes.make(other).digest) == same
    assert made_boxes.make(one).digest == made_boxes.make(one).digest


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(drawn=st.lists(specs, min_size=20, max_size=40), seed=st.integers(1, 2**32 - 1))
def test_digests_are_the_same_in_another_process(drawn, seed, tmp_path):
    done = subprocess.run(
        [sys.executable, str(Path(made_boxes.__file__).resolve())],
        input=json.dumps(drawn),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
    )
    assert json.loads(done.stdout) == [made_boxes.make(spec).digest for spec in drawn]
