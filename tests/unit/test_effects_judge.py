"""What the judge of random programs knows of losses and leaks: what it says of stories that were made up."""

from __future__ import annotations

from typing import Any

import pytest

from effects_judge import CLIENT_LEFT, Deed, Judge, Met, Story
from effects_plans import make_plan

FORKED = Deed("fork", "r", "", "", "", ["r0", "r1"], 1.0, 2.0)
ASKED = Deed("ask", "r1", "/1", "", "call", [], 3.0, 4.0, value="recorded")
WON = Deed("explore", "r", "", "", "", ["/2", "/3"], 5.0, 6.0, value="/2")
MERGED = Deed("merge", "r1", "", "", "", [], 7.0, 8.0)


def says(*deeds: Deed, state: str = "dropped", met: bool = False) -> list[str]:
    """Returns what the judge says of the one request of `r1`."""
    effect: dict[str, Any] = {"url": "http://shop.example/1", "state": state, "reason": CLIENT_LEFT}
    happened = [Met("/1", True, 9.0)] if met else []
    return list(Judge(Story(make_plan(1), [FORKED, ASKED, *deeds], False, happened, [effect])).complaints())


def rival(verb: str = "commit", code: str = "", ended: float | None = 6.0) -> Deed:
    return Deed(verb, "r0", "", "", "", [], 5.0, ended, code)


@pytest.mark.parametrize("verb", ["commit", "merge", "overwrite"])
def test_what_was_held_when_its_branch_was_committed_and_dropped_is_lost(verb: str) -> None:
    (said,) = says(Deed(verb, "r1", "", "", "", [], 7.0, 8.0))
    assert said.startswith("lost: /1 was held")


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(WON, id="an exploration won"),
        pytest.param(rival(), id="another fork was committed"),
        pytest.param(rival(ended=None), id="another fork's commit was killed"),
        pytest.param(rival(code="runtime.lost"), id="another fork's commit raised, and may have happened"),
    ],
)
def test_what_a_branch_held_that_may_have_become_stale_is_dropped_for_good(meanwhile: Deed) -> None:
    assert says(meanwhile, MERGED) == []


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(
            Deed("explore", "r0", "", "", "", ["/2"], 5.0, 6.0, value="/2"), id="it was below another"
        ),
        pytest.param(rival(code="branch.stale"), id="another fork's commit was refused"),
        pytest.param(rival("abort"), id="another fork was aborted"),
    ],
)
def test_nothing_else_that_others_do_is_a_reason_to_drop_it(meanwhile: Deed) -> None:
    (said,) = says(meanwhile, MERGED)
    assert said.startswith("lost: /1 was held")


def test_a_branch_whose_commit_succeeds_was_not_stale_whatever_was_killed_before() -> None:
    (said,) = says(rival(ended=None), Deed("commit", "r1", "", "", "", [], 7.0, 8.0))
    assert said.startswith("lost: /1 was held")


def test_what_waited_when_an_exploration_won_has_leaked_where_it_happens_by_a_merge() -> None:
    (said,) = says(WON, MERGED, state="done", met=True)
    assert said.startswith("leaked: /1 has happened")


@pytest.mark.parametrize(("value", "wrong"), [("r", []), ("", ["leaked"])])
def test_a_checkout_of_a_tree_that_is_closed_is_a_root_where_things_happen_at_once(
    value: str, wrong: list[str]
) -> None:
    checkout = Deed("checkout", "r", "", "", "", ["r1"], 1.0, 2.0, value=value)
    effect: dict[str, Any] = {"url": "http://shop.example/1", "state": "done", "reason": ""}
    story = Story(make_plan(1), [checkout, ASKED], False, [Met("/1", True, 9.0)], [effect])
    assert [said.partition(":")[0] for said in Judge(story).complaints()] == wrong
