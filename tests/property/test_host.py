"""Freezing and applying, against plain directories."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edits import START, series
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.plan import plan_apply
from kibo.model.errors import HostDrift
from overlays import Overlays, dumped, edit

given_edits = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def on_host(host: Any) -> dict[str, Any]:
    """What the host has."""
    return dumped(os.fsencode(host))


def applied(found: dict[str, Any]) -> dict[str, Any]:
    """What an apply brings of it, and leaves alone: no set-id bits."""
    return {path: [kind, mode & 0o1777, *rest] for path, (kind, mode, *rest) in found.items()}


@given_edits
@given(start=series(8), rounds=st.lists(series(6), max_size=3))
def test_a_freeze_shows_the_host_and_the_next_one_what_it_is_then(
    overlays: Overlays, start: Any, rounds: Any
) -> None:
    home, host = overlays.fresh("home"), overlays.tree([*START, *start])
    frozen = freeze(host, home, flush=False)
    assert overlays.shown(list(frozen.layers)) == on_host(host)
    for edits in rounds:
        before, shown = frozen, overlays.shown(list(frozen.layers))
        edit(os.fsencode(host), edits)
        frozen = freeze(host, home, flush=False)
        assert overlays.shown(list(frozen.layers)) == on_host(host)
        assert overlays.shown(list(before.layers)) == shown
    again = freeze(host, home, flush=False)
    assert again.layers == frozen.layers or len(again.layers) <= len(frozen.layers) + 1
    assert overlays.shown(list(again.layers)) == on_host(host)


@given_edits
@given(start=series(6), rounds=st.lists(series(7), min_size=1, max_size=3))
def test_after_an_apply_the_host_is_what_the_stack_shows(overlays: Overlays, start: Any, rounds: Any) -> None:
    home, host = overlays.fresh("home"), overlays.tree([*START, *start])
    frozen = freeze(host, home, flush=False)
    shown = [on_host(host)]
    chains: list[list[Any]] = [[]]
    for edits in rounds:
        delta = overlays.delta([overlays.place / "empty", *frozen.layers, *chains[-1]], edits)
        chains.append([*chains[-1], delta])
        shown.append(overlays.shown([*frozen.layers, *chains[-1]]))
        apply(plan_apply(frozen, chains[-1]))
        assert applied(dumped(os.fsencode(host))) == applied(shown[-1])
        assert plan_apply(frozen, chains[-1]).operations == []
    # Back to each earlier point, as a checkout does.
    for chain, expected in zip(chains[::-1], shown[::-1], strict=True):
        apply(plan_apply(frozen, chain))
        assert applied(dumped(os.fsencode(host))) == applied(expected)
    again = freeze(host, home, flush=False)
    assert overlays.shown(list(again.layers)) == on_host(host)
    assert not os.listdir(home / "workspaces/applies")


@given_edits
@given(start=series(4), box=series(5), user=series(3))
def test_an_apply_never_overwrites_what_the_user_did_meanwhile(
    overlays: Overlays, start: Any, box: Any, user: Any
) -> None:
    home, host = overlays.fresh("home"), overlays.tree([*START, *start])
    frozen = freeze(host, home, flush=False)
    base = applied(dumped(os.fsencode(host)))
    delta = overlays.delta([overlays.place / "empty", *frozen.layers], box)
    ours = applied(overlays.shown([*frozen.layers, delta]))
    edit(os.fsencode(host), user)
    theirs = applied(dumped(os.fsencode(host)))
    try:
        apply(plan_apply(frozen, [delta]))
    except HostDrift:
        assert applied(dumped(os.fsencode(host))) == theirs
    else:
        result = applied(dumped(os.fsencode(host)))
        for path in base.keys() | ours.keys() | theirs.keys():
            was, one, two = base.get(path), ours.get(path), theirs.get(path)
            if two != was and two != one:
                assert result.get(path) == two, path
            elif one != was:
                assert result.get(path) == one, path
    assert not [name for name in dumped(os.fsencode(host)) if ".kibo-" in name]


@pytest.fixture(autouse=True)
def _no_journal_is_left(overlays: Overlays) -> Any:
    yield
    assert not list(overlays.place.glob("home*/workspaces/applies/*"))
