"""Actions that can be undone happen at once, in forks too, and are undone with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import kibo
from inn_boxes import Inn, Ledgers
from kibo import Allow, aio, wiring
from kibo.model.errors import (
    ActionExited,
    ActionRaised,
    BranchClosed,
    BranchStale,
    InDoubt,
    InstanceEnded,
    InvalidArguments,
    WrongState,
)
from patience import eventually
from running_till import Till

pytestmark = pytest.mark.runtime


@pytest.fixture(scope="module")
def inn(till: Till) -> type[Inn]:
    class Guest(Inn):
        """Takes rooms at the inn."""

        egress = [
            Allow("inn.example", to=till.address),
            Allow("inn.example", paths=("/pay",), effect="irreversible", to=till.address),
        ]

    return Guest


@pytest.fixture(scope="module")
def orders(till: Till) -> type[Ledgers]:
    class Customer(Ledgers):
        """Orders at the inn."""

        egress = [Allow("inn.example", to=till.address)]

    return Customer


def states(undone: Any) -> list[str]:
    return [effect.state for effect in undone.effects]


def test_an_aborted_fork_undoes_what_it_did_the_newest_first_with_what_was_given_and_returned(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    (fork,) = main.fork()
    assert fork[box].take("1") == "receipt 1 for /take/1"
    assert fork[box].take("2", nights=3) == "receipt 2 for /take/2"
    undone = fork.abort()
    assert shop.paid == ["/take/1", "/take/2", "/free/2/3/2", "/free/1/1/1"]
    assert states(undone) == ["undone", "undone"]
    assert undone.left == ()
    requests = [effect for effect in fork.effects() if effect.action is None]
    assert [effect.within for effect in requests[:2]] == [undone.effects[1].id, undone.effects[0].id]
    assert fork.abort().effects == ()
    assert box.rooms() == []


def test_what_a_sibling_did_is_undone_by_the_commit_and_what_was_committed_stays(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    one, two = main.fork(2)
    one[box].take("1")
    two[box].take("2")
    done = two.commit()
    assert shop.paid == ["/take/1", "/take/2", "/free/1/1/1"]
    assert [(each.url, each.state, each.branch) for each in done.undone.effects] == [
        ("Guest.take", "undone", one.id)
    ]
    assert done.effects == ()
    with pytest.raises(BranchStale):
        one.commit()
    assert (one.abort().effects, box.rooms()) == ((), ["2"])
    assert [each.state for each in main.effects()] == ["done", "done"]  # the call, and its request
    main.close()
    assert shop.paid == ["/take/1", "/take/2", "/free/1/1/1"]


def test_two_forks_that_did_something_and_changed_no_file_are_not_both_committed(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    one, two = main.fork(2)
    one[box].take("1")
    two[box].take("2")
    one.commit()
    with pytest.raises(BranchStale):
        two.commit()


def test_an_abort_undoes_over_nested_forks_instances_and_what_was_committed_in_the_order_of_it_all(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    one, two = main.spawn(inn(), name="one"), main.spawn(inn(), name="two")
    (outer,) = main.fork()
    outer[one].take("1")
    (inner,) = outer.fork()
    inner[two].take("2")
    inner[one].take("3")
    inner.commit()
    outer[two].take("4")
    (nested,) = outer.fork()
    nested[one].take("5")
    outer[one].take("6")
    twin = outer[two].fork()[0]
    twin.take("7")
    undone = outer.abort()
    freed = [path.split("/")[2] for path in shop.paid if path.startswith("/free")]
    assert freed == ["7", "6", "5", "4", "3", "2", "1"]
    assert states(undone) == ["undone"] * 7
    assert (one.rooms(), two.rooms()) == ([], [])
    twin.destroy()


def test_a_root_that_is_aborted_undoes_too_and_one_that_ends_in_an_error_does_not(
    inn: type[Inn], shop: Till
) -> None:
    main = kibo.branch()
    main.spawn(inn()).take("1")
    assert states(main.abort()) == ["undone"]
    with pytest.raises(ZeroDivisionError), kibo.branch() as other:
        box = other.spawn(inn())
        box.take("2")
        (fork,) = other.fork()
        fork[box].take("3")
        raise ZeroDivisionError
    assert shop.paid == ["/take/1", "/free/1/1/1", "/take/2", "/take/3", "/free/3/1/4"]


@pytest.mark.parametrize(
    ("room", "states_then", "reason"),
    [
        ("sticky", ["undone", "not_undone", "undone"], "give_back(): .*it sticks"),
        ("endless", ["undone", "not_undone", "undone"], "give_back(): .*did not end within 1 s"),
        ("deadly", ["undone", "not_undone", "not_undone"], "give_back(): .*ended the process"),
    ],
)
def test_what_cannot_be_undone_is_said_and_the_rest_is_undone(
    main: kibo.Branch,
    inn: type[Inn],
    shop: Till,
    caplog: pytest.LogCaptureFixture,
    room: str,
    states_then: list[str],
    reason: str,
) -> None:
    box = main.spawn(inn())
    (fork,) = main.fork()
    for each in ("1", room, "3"):
        fork[box].take(each)
    with caplog.at_level(logging.WARNING, "kibo"):
        undone = fork.abort()
    assert states(undone) == states_then
    pattern = reason.replace("()", r"\(\)")
    assert [each.id for each in undone.left] == [
        each.id for each in undone.effects if each.state == "not_undone"
    ]
    import re

    assert re.search(pattern, undone.left[0].reason)
    assert undone.left[0].id in caplog.records[0].getMessage()
    listed = {each.id: each.state for each in fork.effects()}
    assert [listed[each.id] for each in undone.effects] == states_then
    if room == "deadly":
        assert "has ended" in undone.left[1].reason


def test_what_a_rule_says_is_irreversible_is_held_within_such_an_action_too(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    (fork,) = main.fork()
    assert fork[box].take_and_pay("1") == "receipt 1 for /take/1"
    assert shop.paid == ["/take/1"]
    fork.abort()
    assert "/pay" not in shop.paid


def test_what_is_left_running_when_such_an_action_is_over_is_held_again(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    (fork,) = main.fork()
    fork[box].take_later("1")
    fork[box].files.write("/work/over", b"")
    eventually(lambda: any(each.state == "held" for each in fork.effects()))
    assert shop.paid == []
    fork.abort()
    assert shop.paid == []


def test_a_call_that_runs_when_its_branch_is_aborted_is_in_doubt_unless_somebody_can_tell(
    main: kibo.Branch, orders: type[Ledgers], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(orders())
    for found, state, cancelled in (
        ("", "in_doubt", []),
        ("no", "not_done", []),
        ("yes", "undone", ["/cancel/yes/None"]),  # what it returned is not known
        ("slip", "undone", ["/cancel/slip/slip"]),
    ):
        shop.paid.clear()
        (fork,) = main.fork()
        number = found or "none"
        call = calls.submit(fork[box].reserve, number, found)
        eventually(lambda number=number: f"/reserve/{number}" in shop.paid)
        undone = fork.abort()
        assert isinstance(call.exception(20), InstanceEnded)
        assert states(undone) == [state]
        assert [path for path in shop.paid if path.startswith("/cancel")] == cancelled


def test_an_abort_in_the_middle_of_a_stream_that_the_same_thread_reads_leaves_nothing_unsaid(
    main: kibo.Branch, till: Till, shop: Till
) -> None:
    class Streaming(Inn):
        egress = [Allow("inn.example", to=till.address)]

        @kibo.action
        def count(self) -> Iterator[int]:
            """Count."""
            yield from range(1_000_000)

    box = main.spawn(Streaming())
    (fork,) = main.fork()
    fork[box].take("1")
    stream = fork[box].count()
    next(stream)
    undone = fork.abort()
    assert states(undone) == ["not_undone"]
    with pytest.raises(InstanceEnded):
        next(stream)


def test_what_another_process_aborts_is_undone_by_the_one_that_runs_it(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    (fork,) = main.fork()
    fork[box].take("1")
    wiring.runtime().records().history.abort(fork.id)  # as `kibo abort` does
    assert [effect.state for effect in fork.effects() if effect.action] == ["not_undone"]
    with pytest.raises(BranchClosed):
        fork[box].take("2")
    assert states(fork.abort()) == ["undone"]
    assert shop.paid == ["/take/1", "/free/1/1/1"]


def test_what_was_merged_is_undone_by_the_fresh_guest_that_goes_on(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    (outer,) = main.fork()
    (inner,) = outer.fork()
    outer[box].files.write("/work/ours", b"1")
    inner[box].files.write("/work/theirs", b"1")
    inner[box].take("1")
    inner.merge()
    (undone,) = outer.abort().effects
    assert shop.paid == ["/take/1", "/free/1/1/1"]
    assert "not in list" in undone.reason  # it has another live state, and says that it misses that


def test_nobody_else_calls_an_instance_while_it_undoes(
    main: kibo.Branch, inn: type[Inn], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(inn())
    (fork,) = main.fork()
    inside = fork[box]
    inside.take("endless")
    aborting = calls.submit(fork.abort)
    eventually(lambda: any(path.startswith("/free/endless") for path in shop.paid))
    with pytest.raises(InstanceEnded):
        inside.take("2")
    assert fork.abort().effects == ()  # it is being aborted
    assert states(aborting.result(20)) == ["not_undone"]
    assert "/take/2" not in shop.paid


def test_explore_undoes_what_its_losers_did(main: kibo.Branch, inn: type[Inn], shop: Till) -> None:
    box = main.spawn(inn())
    prices = {"cheap": 1, "dear": 3, "fair": 2}
    strategies = [(name, lambda box, name=name: box.take(name)) for name in prices]
    found = kibo.explore(
        box,
        strategies,
        policy=kibo.BestOf(lambda box: -prices[box.rooms()[0]]),
        budget=kibo.Budget(seconds=60),
    )
    assert found.winner is not None
    assert box.rooms() == ["cheap"]
    freed = sorted(path.split("/")[2] for path in shop.paid if path.startswith("/free"))
    assert freed == ["dear", "fair"]


def test_coroutines_undo_too_also_where_they_are_cancelled(inn: type[Inn], shop: Till) -> None:
    async def use() -> list[str]:
        async with aio.branch() as main:
            box = await main.spawn(inn())
            one, two = await main.fork(2)
            await one[box].take("1")
            await two[box].take("2")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await one.abort()
            done = await two.commit()
            assert done.undone.effects == ()
            return [effect.state for effect in await one.effects() if effect.action]

    assert anyio.run(use) == ["undone"]
    assert shop.paid == ["/take/1", "/take/2", "/free/1/1/1"]


def test_a_key_stands_for_one_call_as_its_branch_sees_it(
    main: kibo.Branch, orders: type[Ledgers], shop: Till
) -> None:
    box = main.spawn(orders())
    assert box.order("7") == {"orders": 1}
    assert box.order("7", what="tea") == {"orders": 1}
    with pytest.raises(InvalidArguments, match="with other arguments"):
        box.order("7", what="coffee")
    one, two = main.fork(2)
    assert one[box].order("7") == {"orders": 1}
    with pytest.raises(ActionRaised, match="sold out"):
        main.spawn(orders()).order("8", fail="early")
    with pytest.raises(ActionRaised, match="cannot be read"):
        main["Customer-2"].order("8", fail="late")
    with pytest.raises(InDoubt):
        main["Customer-2"].order("8", fail="late")
    assert shop.paid == ["/order/tea"] * 2
    one.abort()
    two.abort()


def test_a_call_that_died_is_not_made_again_until_somebody_says_that_it_has_not_happened(
    main: kibo.Branch, orders: type[Ledgers], shop: Till
) -> None:
    with pytest.raises(ActionExited):
        main.spawn(orders()).order("1", fail="exit")
    box = main.spawn(orders())
    with pytest.raises(InDoubt, match="may have happened") as doubt:
        box.order("1", fail="exit")
    effect = doubt.value.details["effect"]
    assert f"kibo effects resolve {effect}" in doubt.value.hint
    ledger = wiring.runtime().records().ledger
    ledger.resolve(effect, done=True, by="ada")
    with pytest.raises(WrongState, match="what it returned is not known"):
        box.order("1", fail="exit")
    assert shop.paid == ["/order/tea"]


@pytest.mark.parametrize(
    ("verdict", "told", "returned"), [("no", 2, None), ("a receipt", 1, "a receipt"), ("unknown", 1, InDoubt)]
)
def test_what_verifies_is_asked_about_a_call_in_doubt_first(
    main: kibo.Branch, orders: type[Ledgers], shop: Till, verdict: str, told: int, returned: Any
) -> None:
    with pytest.raises(ActionExited):
        main.spawn(orders()).order_checked(verdict, verdict)
    box = main.spawn(orders())
    if returned is None:
        with pytest.raises(ActionExited):
            box.order_checked(verdict, verdict)
    elif returned is InDoubt:
        with pytest.raises(InDoubt):
            box.order_checked(verdict, verdict)
    else:
        assert box.order_checked(verdict, verdict) == returned
        assert box.order_checked(verdict, verdict) == returned
    assert len(shop.paid) == told


def test_outside_of_branches_a_key_is_the_state_directorys(orders: type[Ledgers], shop: Till) -> None:
    with orders().spawn() as one, orders().spawn() as two:
        assert one.order("outside") == {"orders": 1}
        assert two.order("outside") == {"orders": 1}
    assert shop.paid == ["/order/tea"]


def test_what_a_fork_asked_for_with_a_key_was_held_and_is_dropped_with_it(
    main: kibo.Branch, orders: type[Ledgers], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(orders())
    one, two = main.fork(2)
    ordering = [calls.submit(each[box].order, "9") for each in (one, two)]
    eventually(lambda: one.waits_at_boundary() and two.waits_at_boundary())
    one.commit()
    assert ordering[0].result(20) == {"orders": 1}
    assert isinstance(ordering[1].exception(20), InstanceEnded)
    assert shop.paid == ["/order/tea"]
    assert box.order("9") == {"orders": 1}
    found = [each.state for each in two.effects() if each.action]
    assert found == ["dropped"]


def test_arguments_that_are_more_than_is_kept_are_refused_before_anything_happens(
    main: kibo.Branch, inn: type[Inn], shop: Till
) -> None:
    box = main.spawn(inn())
    with pytest.raises(InvalidArguments, match="cannot be recorded"):
        box.take("x" * (5 << 20))
    assert (shop.paid, main.effects()) == ([], [])


def test_each_part_of_a_sum_undoes_its_own(main: kibo.Branch, inn: type[Inn], till: Till, shop: Till) -> None:
    class Other(kibo.Box):
        """Has an action of that name."""

        @kibo.action
        def give_back(self, room: str) -> None:
            """Do nothing."""

    box = main.spawn(inn() | Other())
    (fork,) = main.fork()
    fork[box].take("1")
    assert states(fork.abort()) == ["undone"]
    assert shop.paid == ["/take/1", "/free/1/1/1"]
