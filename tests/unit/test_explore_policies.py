"""Policies as tables: these events, in this order, give these actions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kibo.branch.explore.decisions import (
    Answered,
    Ask,
    BudgetSpent,
    Failed,
    Finished,
    Fork,
    GiveUp,
    Score,
    Scored,
    Started,
    Stop,
    Task,
    Win,
)
from kibo.branch.explore.policies.best_of import BestOf
from kibo.branch.explore.policies.cascade import Cascade
from kibo.branch.explore.policies.first_success import FirstSuccess
from kibo.branch.explore.policies.reflexion import Reflexion
from kibo.branch.explore.policies.tournament import Tournament
from kibo.branch.explore.policies.tree_search import TreeSearch
from kibo.branch.explore.strategy import Strategy
from kibo.model.errors import InvalidInput

A, B, C, D, E = (Strategy(name, print) for name in "abcde")
WRONG = ValueError("wrong")


def score(_: Any) -> float: ...


def critique(_: Any) -> str: ...


def judge(*_: Any) -> bool: ...


def expand(_: Any) -> list[Any]: ...


def played(policy: Any, strategies: tuple[Strategy, ...], *events: Any) -> list[Any]:
    """The actions after each event; the last event's, if there is one only."""
    state = policy.start(Task(strategies))
    answers = []
    for event in events:
        before = repr(state)
        following, actions = policy.step(state, event)
        assert repr(state) == before, "a step changed the state that it was given"
        state = following
        answers.append(list(actions))
    return answers


def test_first_success_forks_all_stops_what_fails_and_lets_the_first_true_value_win():
    assert played(
        FirstSuccess(), (A, B, C), Started(), Finished(1, 0), Failed(0, WRONG), Finished(2, "yes")
    ) == [[Fork(A), Fork(B), Fork(C)], [Stop(1)], [Stop(0)], [Win(2)]]


def test_what_a_success_is_can_be_said():
    policy = FirstSuccess(accept=lambda failures: failures == 0)
    assert played(policy, (A, B), Started(), Finished(0, 3), Finished(1, 0))[1:] == [[Stop(0)], [Win(1)]]


def test_an_attempt_that_waits_at_its_boundary_is_a_success():
    assert played(FirstSuccess(), (A,), Started(), Finished(0, held=True))[1] == [Win(0)]


def test_best_of_waits_for_all_and_keeps_one_world_open():
    assert played(
        BestOf(score),
        (A, B, C, D),
        Started(),
        Finished(0),
        Scored(0, 1.0),
        Finished(2),
        Failed(1, WRONG),
        Scored(2, 3.0),
        Finished(3),
        Scored(3, 3.0),
    ) == [
        [Fork(A), Fork(B), Fork(C), Fork(D)],
        [Score(0, score)],
        [],
        [Score(2, score)],
        [Stop(1)],
        [Stop(0)],
        [Score(3, score)],
        [Stop(3), Win(2)],  # equal scores: the earlier attempt
    ]


def test_best_of_goes_round_the_strategies():
    assert played(BestOf(score, n=5), (A, B), Started())[0] == [Fork(A), Fork(B), Fork(A), Fork(B), Fork(A)]


def test_best_of_takes_the_best_so_far_when_the_budget_is_spent():
    events = (Started(), Finished(0), Scored(0, 1.0), BudgetSpent("seconds"))
    assert played(BestOf(score), (A, B), *events)[-1] == [Win(0)]
    assert played(BestOf(score), (A, B), Started(), BudgetSpent("money"))[-1] == [
        GiveUp("no attempt could be scored")
    ]
    # With branches spent, what runs goes on.
    assert (
        played(BestOf(score), (A, B), Started(), Finished(0), Scored(0, 1.0), BudgetSpent("branches"))[-1]
        == []
    )


def test_a_cascade_tries_the_cheap_ones_first():
    dear, cheap = Strategy("dear", print, 10), Strategy("cheap", print, 1)
    assert played(Cascade(), (dear, cheap, A), Started(), Finished(0, False), Failed(1, WRONG)) == [
        [Fork(A)],
        [Stop(0), Fork(cheap)],
        [Stop(1), Fork(dear)],
    ]


def test_a_cascade_has_stages_and_ends_after_the_last():
    events = (Started(), Finished(1, 0), Failed(0, WRONG), Finished(2, False))
    assert played(Cascade(stages=(2, 1)), (A, B, C), *events) == [
        [Fork(A), Fork(B)],
        [Stop(1)],
        [Stop(0), Fork(C)],
        [Stop(2), GiveUp("every stage failed")],
    ]
    assert played(Cascade(stages=(1,)), (A, B, C), Started(), Finished(0, False))[1] == [
        Stop(0),
        Fork(B),
        Fork(C),
    ]


def test_reflexion_hands_the_critique_to_the_next_try():
    assert played(
        Reflexion(critique, tries=2),
        (A,),
        Started(),
        Failed(0, WRONG),
        Answered((0,), "look at the imports"),
        Finished(1, False),
    ) == [
        [Fork(A)],
        [Ask((0,), critique)],
        [Fork(A, None, "look at the imports"), Stop(0)],
        [Stop(1), GiveUp("every strategy's tries failed")],
    ]


def test_reflexion_may_go_on_from_what_failed():
    events = (Started(), Finished(0, False), Answered((0,), "more"))
    assert played(Reflexion(critique, again_from="attempt"), (A,), *events)[2] == [Fork(A, 0, "more")]


def test_reflexion_has_tries_beside_each_other_and_gives_up_after_the_last_of_all():
    assert played(
        Reflexion(critique, tries=2),
        (A, B),
        Started(),
        Failed(1, WRONG, world=False),
        Failed(0, WRONG),
        Answered((0,), error=WRONG),
    )[1:] == [[Stop(1)], [Ask((0,), critique)], [Stop(0), GiveUp("every strategy's tries failed")]]


def test_a_tournament_pairs_by_number_gives_the_odd_one_a_bye_and_stops_losers():
    assert played(
        Tournament(judge),
        (A, B, C, D, E),
        Started(),
        *(Finished(number) for number in (3, 0, 4, 1, 2)),
        Answered((2, 3), False),
        Answered((0, 1), True),
        Answered((0, 3), False),
        Answered((3, 4), True),
    )[5:] == [
        [Ask((0, 1), judge), Ask((2, 3), judge)],
        [Stop(2)],
        [Stop(1), Ask((0, 3), judge)],
        [Stop(0), Ask((3, 4), judge)],
        [Stop(4), Win(3)],
    ]


def test_a_tournament_of_one_needs_no_judge_and_of_none_has_no_winner():
    assert played(Tournament(judge), (A, B), Started(), Failed(0, WRONG), Finished(1))[-1] == [Win(1)]
    assert played(Tournament(judge), (A,), Started(), Failed(0, WRONG))[-1] == [
        Stop(0),
        GiveUp("every attempt failed"),
    ]


def test_a_judge_that_raises_ends_the_tournament():
    events = (Started(), Finished(0), Finished(1), Answered((0, 1), error=WRONG))
    assert played(Tournament(judge), (A, B), *events)[-1] == [GiveUp("the judge raised ValueError: wrong")]


def test_a_beam_keeps_the_best_few_of_each_level():
    policy = TreeSearch(None, score, width=1, depth=2)
    assert played(
        policy,
        (A, B),
        Started(),
        Finished(0),
        Finished(1),
        Scored(0, 0.2),
        Scored(1, 0.7),
        Finished(3),
        Failed(2, WRONG),
        Scored(3, 0.6),
    ) == [
        [Fork(A), Fork(B)],
        [Score(0, score)],
        [Score(1, score)],
        [],
        [Stop(0), Fork(A, 1), Fork(B, 1)],
        [Score(3, score)],
        [Stop(2)],
        [Win(1)],  # the best world of all, not of the last level
    ]


def test_what_can_be_tried_may_be_asked_of_each_world():
    policy = TreeSearch(expand, score, width=2, depth=2)
    assert played(
        policy,
        (A,),
        Started(),
        Answered((None,), ["left", B]),
        Finished(0),
        Scored(0, 1.0),
        Failed(1, WRONG),
        Answered((0,), []),
    ) == [
        [Ask((None,), expand)],
        [Fork(A, None, "left"), Fork(B)],
        [Score(0, score)],
        [],
        [Stop(1), Ask((0,), expand)],
        [Win(0)],
    ]


def test_a_value_that_is_accepted_ends_a_search_at_once():
    policy = TreeSearch(None, score, width=1, depth=5, accept=lambda value: value == "goal")
    assert played(policy, (A, B), Started(), Finished(1, "goal"))[1] == [Win(1)]
    assert played(policy, (A,), Started(), Failed(0, WRONG))[1] == [Stop(0), GiveUp("no world was accepted")]


def test_thoughts_go_deep_first_and_back_from_what_is_not_good_enough():
    policy = TreeSearch(None, score, width=2, depth=2, least=0.5)
    answers = played(
        policy,
        (A, B, C),
        Started(),
        Scored(0, 0.6),
        Scored(1, 0.1),
        Scored(2, 0.9),  # pruned: 1; to visit: 2, then 0
        Scored(3, 0.2),
        Scored(4, 0.3),
        Scored(5, 0.4),  # nothing below 2 is good enough: back to 0
        Scored(6, 0.2),
        Scored(7, 0.8),
        Scored(8, 0.5),
    )
    assert answers[3] == [Stop(1), Fork(A, 2), Fork(B, 2), Fork(C, 2)]
    assert answers[6] == [Stop(3), Stop(4), Stop(5), Fork(A, 0), Fork(B, 0), Fork(C, 0)]
    assert answers[9] == [Stop(6), Win(7)]


def test_thoughts_without_a_line_that_reaches_the_depth_give_up():
    policy = TreeSearch(None, score, width=1, depth=2, least=0.5)
    assert played(policy, (A,), Started(), Scored(0, 0.4))[1] == [
        Stop(0),
        GiveUp("every line came to nothing"),
    ]


def uct(mean: float, visits: int, above: int) -> float:
    return mean + math.sqrt(2) * math.sqrt(math.log(above) / visits)


def test_rollouts_follow_the_bound_as_worked_out_by_hand():
    policy = TreeSearch(None, score, depth=3, explore_constant=math.sqrt(2), rollouts=5)
    answers = played(
        policy,
        (A, B),
        Started(),
        Scored(0, 1.0),  # a
        Scored(1, 0.0),  # b: all of the root was tried
        Scored(2, 0.0),
        Scored(3, 0.5),
        Scored(4, 0.2),
    )
    assert answers[0] == [Fork(A)]
    assert answers[1] == [Fork(B)]
    # a: 1 + 1.177, b: 0 + 1.177: below a.
    assert uct(1.0, 1, 2) > uct(0.0, 1, 2)
    assert answers[2] == [Fork(A, 0)]
    # a has (1 + 0) / 2 over two visits, b 0 over one: 0.5 + 1.048 beats 0 + 1.482, but only just.
    assert 0 < uct(0.5, 2, 3) - uct(0.0, 1, 3) < 0.1
    assert answers[3] == [Fork(B, 0)]
    # Now a has 1.5 / 3 over three: 0.5 + 0.961 loses to 0 + 1.665.
    assert uct(0.5, 3, 4) < uct(0.0, 1, 4)
    assert answers[4] == [Fork(A, 1)]
    assert answers[5] == [Win(0)]


def test_rollouts_at_the_same_time_go_to_different_worlds():
    policy = TreeSearch(None, score, depth=2, explore_constant=1.0, rollouts=4, at_once=3)
    answers = played(policy, (A, B), Started(), Scored(0, 1.0), Scored(1, 0.0))
    assert answers[0] == [Fork(A), Fork(B)]  # nothing else is ready
    assert answers[1] == [Fork(A, 0), Fork(B, 0)]
    assert answers[2] == []


def test_a_tree_in_which_everything_failed_gives_up():
    policy = TreeSearch(None, score, depth=2, explore_constant=1.0, rollouts=10)
    assert played(policy, (A, B), Started(), Failed(0, WRONG), Failed(1, WRONG))[-1] == [
        Stop(1),
        GiveUp("no world could be scored"),
    ]
    asked = TreeSearch(expand, score, depth=2, explore_constant=1.0, rollouts=10)
    assert played(asked, (A,), Started(), Answered((None,), error=WRONG))[-1] == [
        GiveUp("no world could be scored")
    ]


def test_rollouts_end_where_the_whole_tree_is_known():
    policy = TreeSearch(None, score, depth=1, explore_constant=1.0, rollouts=7)
    assert played(policy, (A,), Started(), Scored(0, 0.3))[-1] == [Win(0)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: BestOf(score, n=0),
        lambda: Cascade(stages=(0,)),
        lambda: Reflexion(critique, tries=0),
        lambda: Reflexion(critique, again_from="nowhere"),  # type: ignore[arg-type]
        lambda: TreeSearch(None, score, depth=0),
        lambda: TreeSearch(None, score, rollouts=3),
        lambda: TreeSearch(None, score, explore_constant=1.0),
        lambda: TreeSearch(None, score, explore_constant=1.0, rollouts=3, least=0.1),
        lambda: TreeSearch(None, score, at_once=2),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(InvalidInput):
        make()
