"""Why a run is where it is, in every state, of what is known of it and of all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kibo.model.clock import Moment
from kibo.model.ids import BudgetId, RunId
from kibo.schedule.explaining import Explanation, Known, explain
from kibo.schedule.failing import Failure
from kibo.schedule.figures import figures
from kibo.schedule.lifecycle import MEANING, STATES
from kibo.schedule.placement import Node, Reason
from kibo.schedule.policy import Policy
from kibo.schedule.request import Rate, Request, Resources
from kibo.schedule.rows import Wait
from kibo.schedule.run import Run
from kibo.schedule.survey import Survey
from unit.test_schedule import at, run

NOW = at(100)
BROKE = Failure("action.raised", "it broke")


def asked(state: Any = "queued", **told: Any) -> Run:
    policy = told.pop("policy", Policy())
    position = told.pop("position", 1)
    return run(state, request=Request(b"", policy, **told), position=position)


def survey(*runs: Run, boxes: int = 4, dispatcher: str = "somebody", **told: Any) -> Survey:
    nodes = (Node("n1", 1, Resources(4000, 0, boxes)),) if dispatcher else ()
    values: dict[str, Any] = {"weights": {}, "recent": ()}
    return Survey(NOW, {each.id: each for each in runs}, nodes, dispatcher, **(values | told))


def whats(found: Explanation) -> list[tuple[str, str]]:
    return [(each.what, each.about) for each in found.reasons]


def test_what_is_started_next_is_said_with_its_node():
    one = asked()
    found = explain(Known(one), survey(one))
    assert (found.verdict, found.node, whats(found)) == ("next", "n1", [("free", "n1")])
    assert "as soon as that is decided" in str(found)


def test_what_waits_is_kept_back_by_what_the_decision_itself_finds():
    works = asked("running", limits={"shop": 1})
    one, two = (asked(limits={"shop": 1}, position=n) for n in (2, 3))
    found = explain(Known(two), survey(works, one, two, boxes=1))
    assert whats(found) == [("limit", "shop"), ("room", "n1"), ("turn", "default")]
    assert str(works.id) in found.reasons[0].detail
    assert (found.verdict, found.node, found.since_s) == ("waits", "", 100)


def test_where_nobody_dispatches_that_is_what_keeps_it():
    one = asked()
    found = explain(Known(one), survey(one, dispatcher=""))
    assert whats(found) == [("carrier", "")]
    assert "kibo up" in str(found)


def test_a_rate_counts_what_was_started_before_anybody_asked():
    one = asked(rates={"web": Rate(1, 60)})
    (bar,) = survey(one).queue().items[one.id].bars
    found = explain(Known(one), survey(one, recent=((20.0, (bar,)),)))
    assert found.reasons == (Reason("rate", "web", "1 were started within 60 s; the next in 40 s"),)


def test_what_comes_after_others_names_those():
    one = asked("waiting")
    others = [RunId.new() for _ in range(3)]
    waits = [
        Wait(others[0], "done", "running"),
        Wait(others[1], "ended", "queued"),
        Wait(others[2], "done", "failed"),
    ]
    found = explain(Known(one, waits=waits), survey(one))
    assert [each.about for each in found.reasons] == others
    assert [each.detail for each in found.reasons] == [
        "is running, and must have succeeded",
        "is queued, and must have ended, as it has the same subject",
        "is failed, so it fails",
    ]


def test_what_nothing_keeps_any_more_is_told_to_go_on():
    one = asked("waiting")
    (reason,) = explain(Known(one, waits=[Wait(RunId.new(), "done", "done")]), survey(one)).reasons
    assert "goes on once the dispatcher has looked" in reason.detail


def test_pauses_questions_and_forks_are_told_with_the_failure_that_led_to_them():
    pause = replace(asked("backing_off"), failure=BROKE, pause_s=5.0, entered=at(98))
    found = explain(Known(pause), survey(pause))
    assert whats(found) == [("pause", ""), ("failure", "action.raised")]
    assert (found.within_s, found.then) == (3, "is tried again")
    asking = replace(asked("asking"), failure=BROKE, pause_s=60.0)
    assert whats(explain(Known(asking), survey(asking))) == [("person", ""), ("failure", "action.raised")]
    forked, fork = asked("forked"), RunId.new()
    assert whats(explain(Known(forked, forks=[(fork, "running")]), survey(forked))) == [("fork", fork)]


def test_what_has_a_node_says_why_there_and_whether_that_is_gone():
    one = asked("running")
    placed = [Reason("near", "n1", "it has 1 of 1 layers and templates", 100)]
    found = explain(Known(one, placed=placed), survey(one))
    assert (found.verdict, found.node, whats(found)) == ("here", "n1", [("near", "n1")])
    gone = replace(survey(one), nodes=())
    assert whats(explain(Known(one, placed=placed), gone)) == [("near", "n1"), ("lost", "n1")]


def test_a_spent_budget_is_told():
    one = replace(asked(), budget=BudgetId.new())
    found = explain(Known(one, spent="tokens"), survey(one))
    assert ("budget", str(one.budget)) in whats(found)


def test_what_undoes_waits_for_a_node_past_every_bound():
    works = asked("running", limits={"shop": 1})
    undo = replace(asked("compensating", limits={"shop": 1}), failure=BROKE)
    assert explain(Known(undo), survey(works, undo)).verdict == "next"
    assert whats(explain(Known(undo), survey(works, undo, boxes=1))) == [("room", "n1")]


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_explained_also_where_nobody_dispatches_and_the_clock_was_set_back(state: Any):
    one = replace(asked(state, policy=Policy(total_timeout_s=300)), failure=BROKE)
    for around in (
        survey(one),
        survey(one, dispatcher=""),
        replace(survey(one), at=Moment(-1e6, 0.0, "other")),
    ):
        found = explain(Known(one), around)
        assert found.since_s >= 0
        assert MEANING[state] in str(found)
        assert (found.verdict == "ended") == (state in ("done", "failed", "abandoned", "cancelled"))


def test_what_a_box_has_said_is_one_line_of_it():
    one = replace(asked("failed"), failure=Failure("x", "it\nbroke\r\n  room     n9: forged"))
    assert len(str(explain(Known(one), survey())).splitlines()) == 2


def test_figures_count_what_is_there_by_state_tenant_key_and_node():
    runs = [asked("running", tenant="ada", limits={"shop": 2}), asked("waiting", tenant="ada", position=2)]
    runs += [asked(tenant="bob", limits={"shop": 2}, rates={"web": Rate(3, 60)}, position=n) for n in (3, 4)]
    runs[3] = replace(runs[3], entered=at(40))
    (_, web) = survey(*runs).queue().items[runs[2].id].bars
    found = figures(survey(*runs, recent=((70.0, (web,)), (30.0, (web,)))))
    assert [each[:2] for each in found.states] == [("waiting", 1), ("queued", 2), ("running", 1)]
    assert found.states[1][2:] == (100, 80)
    assert [each[:5] for each in found.tenants] == [("bob", 2, 0, 0, 100), ("ada", 0, 1, 1, 0.0)]
    assert [each.share for each in found.tenants] == [0, 0.25]
    assert [tuple(each) for each in found.keys] == [
        ("limit", "shop", 1, 2, 0.0, 2),
        ("rate", "web", 1, 3, 60, 2),
    ]
    assert [(each.node, each.free.boxes, each.runs) for each in found.nodes] == [("n1", 3, 1)]
    assert [each.state for each in found.runs] == ["running", "queued", "queued", "waiting"]
