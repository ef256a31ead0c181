"""What boxes in branches ask of the world: unchanged programs wait, and what is committed happens once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
import leftovers
from kibo import Allow, aio, wiring
from kibo.effects.forwarder import Forwarder
from kibo.model.errors import ActionExited, BranchStale, InstanceEnded, KiboError, WrongState
from kibo.runtime.instance import conversation_of
from kibo.runtime.waiting import run
from own_runtimes import own_runtime
from patience import eventually
from payer_boxes import Payer, Waker
from running_till import Till

pytestmark = pytest.mark.runtime


@pytest.fixture
def built() -> Path:
    return wiring.runtime().home


@pytest.fixture(scope="module")
def payer(till: Till) -> type[Payer]:
    class Customer(Payer):
        """Pays at the shop."""

        egress = [Allow("shop.example", to=till.address)]

    return Customer


def states(branch: kibo.Branch) -> list[str]:
    return [effect.state for effect in branch.effects()]


def ended(call: Future[Any]) -> KiboError:
    error = call.exception(20)
    assert isinstance(error, KiboError)
    return error


def test_in_a_root_an_effect_happens_at_once_and_is_recorded(
    main: kibo.Branch, payer: type[Payer], shop: Till
) -> None:
    box = main.spawn(payer())
    assert box.pay() == "receipt 1 for /pay"
    assert box.look() == "looked"
    (effect,) = main.effects()
    assert (effect.state, effect.status, effect.instance) == ("done", 200, box.id)


def test_of_three_forks_that_pay_the_one_that_is_committed_pays_once_and_its_call_returns(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    forks = main.fork(3)
    paying = [calls.submit(fork[box].pay, f"/pay/{number}") for number, fork in enumerate(forks)]
    eventually(lambda: all(fork.waits_at_boundary() for fork in forks))
    assert shop.paid == []
    done = forks[1].commit()
    assert shop.paid == ["/pay/1"]
    assert [(each.state, each.status) for each in done.effects] == [("done", 200)]
    assert paying[1].result(20) == "receipt 1 for /pay/1"
    for loser in (paying[0], paying[2]):
        assert isinstance(ended(loser), InstanceEnded)
    assert box.kept() == ["receipt 1 for /pay/1"]
    assert box.files.read("/work/after") == b"receipt 1 for /pay/1"
    eventually(lambda: [states(each) for each in forks] == [["dropped"], ["done"], ["dropped"]])
    with pytest.raises(BranchStale):
        forks[0].commit()
    assert box.pay("/more") == "receipt 2 for /more"
    assert states(main) == ["done", "done"]


def test_a_commit_seals_the_files_as_they_are_in_the_middle_of_the_call(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    paying = calls.submit(fork[box].pay)
    eventually(fork.waits_at_boundary)
    head = fork.commit().head
    paying.result(20)
    with kibo.checkout(head, payer()) as before:
        files = {info.name for info in before["Customer"].files.list("/work")}
    assert files == {"before"}
    assert {info.name for info in box.files.list("/work")} == {"before", "after"}


def test_an_aborted_fork_pays_nothing(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    paying = calls.submit(fork[box].pay)
    eventually(fork.waits_at_boundary)
    fork.abort()
    ended(paying)
    assert states(fork) == ["dropped"]
    assert not fork.waits_at_boundary()
    assert shop.paid == []
    assert box.pay() == "receipt 1 for /pay"


def test_what_is_asked_for_two_forks_down_waits_for_both_commits(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (outer,) = main.fork()
    (inner,) = outer.fork()
    paying = calls.submit(inner[box].pay)
    eventually(inner.waits_at_boundary)
    done = inner.commit()
    assert [(each.state, each.branch) for each in done.effects] == [("held", outer.id)]
    assert shop.paid == []
    assert outer.waits_at_boundary()
    assert [each.state for each in outer.commit().effects] == ["done"]
    assert paying.result(20) == "receipt 1 for /pay"
    assert box.kept() == ["receipt 1 for /pay"]
    assert [each.origin for each in main.effects()] == [inner.id]


def test_commands_and_threads_of_a_box_are_held_like_its_actions(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    fork[box].pay_beside("/thread")
    eventually(lambda: states(fork) == ["held"])
    curl = calls.submit(fork[box].exec, "curl -sS -d card=1 http://shop.example/curl", timeout_s=60)
    eventually(lambda: states(fork) == ["held", "held"])
    assert shop.paid == []
    fork.commit()
    assert shop.paid == ["/thread", "/curl"]
    assert curl.result(20).stdout == "receipt 2 for /curl"


def test_two_forks_that_change_no_file_cannot_both_release_what_they_hold(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    one, two = main.fork(2)
    paying = [calls.submit(fork[box].pay_in_secret) for fork in (one, two)]
    eventually(lambda: one.waits_at_boundary() and two.waits_at_boundary())
    one.commit()
    with pytest.raises(BranchStale):
        two.commit()
    assert shop.paid == ["/secret"]
    assert paying[0].result(20) == "receipt 1 for /secret"
    ended(paying[1])


def test_a_call_in_the_parent_waits_until_the_call_that_was_committed_into_it_has_ended(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (outer,) = main.fork()
    (inner,) = outer.fork()
    paying = calls.submit(inner[box].pay)
    eventually(inner.waits_at_boundary)
    inner.commit()
    asking = calls.submit(outer[box].kept)
    with pytest.raises(TimeoutError):
        asking.result(0.3)
    outer.commit()
    assert paying.result(20) == "receipt 1 for /pay"
    assert isinstance(ended(asking), InstanceEnded)  # the instance is the root's now
    assert box.kept() == ["receipt 1 for /pay"]


def test_a_stream_goes_on_across_the_commit_that_it_waits_for(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    items = fork[box].pay_twice()
    first = calls.submit(next, items)
    eventually(fork.waits_at_boundary)
    fork.commit()
    assert first.result(20) == "receipt 1 for /one"
    items.close()
    assert box.look() == "looked"


def test_what_waits_at_the_boundary_is_not_merged_away(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (outer,) = main.fork()
    (inner,) = outer.fork()
    paying = calls.submit(outer[box].pay)
    eventually(outer.waits_at_boundary)
    with pytest.raises(WrongState, match="waits for an effect"):
        outer.merge()
    with pytest.raises(WrongState, match="waits for an effect"):
        inner.commit()
    outer.commit()
    assert paying.result(20) == "receipt 1 for /pay"


def test_what_a_command_waits_for_is_not_merged_away_either(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    box.files.write("/work/ours", b"1")
    curl = calls.submit(fork[box].exec, "curl -sS -d card=1 http://shop.example/curl", timeout_s=60)
    eventually(lambda: states(fork) == ["held"])
    with pytest.raises(WrongState, match="waits for an effect"):
        fork.merge()
    assert (shop.paid, states(fork)) == ([], ["held"])
    fork.commit(overwrite=True)
    assert shop.paid == ["/curl"]
    assert curl.result(20).stdout == "receipt 1 for /curl"


def test_a_request_between_two_calls_survives_the_commit_that_it_waits_for(
    main: kibo.Branch, payer: type[Payer], shop: Till
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    fork[box].order("/ordered")
    eventually(lambda: states(fork) == ["held"])
    assert [each.state for each in fork.commit().effects] == ["done"]
    assert box.receipt() == "receipt 1 for /ordered"
    assert shop.paid == ["/ordered"]


@pytest.mark.parametrize("end", ["merge", "overwrite"])
def test_what_a_stale_branch_was_waiting_with_is_dropped_though_its_files_are_committed(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor, end: str
) -> None:
    box = main.spawn(payer())
    one, two = main.fork(2)
    one[box].files.write("/work/one", b"1")
    two[box].files.write("/work/two", b"2")
    (twin,) = two[box].fork()  # nothing ends it with the branch
    calls.submit(twin.pay)
    eventually(lambda: states(two) == ["held"])
    one.commit()
    done = two.merge() if end == "merge" else two.commit(overwrite=True)
    assert done.effects == ()
    assert (shop.paid, states(two)) == ([], ["dropped"])
    assert box.files.read("/work/two") == b"2"
    twin.destroy()


def test_what_a_merge_wakes_asks_for_nothing_before_the_merge_is_recorded(
    main: kibo.Branch, till: Till, shop: Till
) -> None:
    class Early(Waker):
        egress = [Allow("shop.example", to=till.address)]

    box = main.spawn(Early())
    (fork,) = main.fork()
    box.files.write("/work/ours", b"1")
    fork[box].files.write("/work/theirs", b"1")
    fork[box].files.write("/work/armed", b"1")
    with pytest.raises(KiboError):
        fork.merge()  # its fresh guest waits with its payment until its time is over
    assert shop.paid == []
    eventually(lambda: states(fork) == ["dropped"])


def test_what_a_gateway_held_that_has_died_is_dropped_by_the_commit_though_there_is_another(
    payer: type[Payer], till: Till, shop: Till, calls: ThreadPoolExecutor, built: Path
) -> None:
    with own_runtime(built), kibo.branch() as main:
        box = main.spawn(payer())
        (fork,) = main.fork()
        paying = calls.submit(fork[box].pay)
        eventually(fork.waits_at_boundary)
        gateway = wiring.runtime().egress._forwarding
        assert isinstance(gateway, Forwarder)
        os.kill(gateway.pid, signal.SIGKILL)
        ended(paying)
        payer().spawn().destroy()  # by another gateway
        assert fork.commit().effects == ()
        assert (shop.paid, states(fork)) == ([], ["dropped"])


def test_what_a_gateway_held_that_dies_while_a_commit_waits_is_not_released_by_it(
    payer: type[Payer], till: Till, shop: Till, calls: ThreadPoolExecutor, built: Path
) -> None:
    with own_runtime(built), kibo.branch() as main:
        box, other = main.spawn(payer(), name="a"), main.spawn(payer(), name="b")
        (fork,) = main.fork()
        paying = calls.submit(fork[box].pay)
        eventually(fork.waits_at_boundary)
        turn = run(conversation_of(fork[other]).take_turn())
        committing = calls.submit(fork.commit)
        with pytest.raises(TimeoutError):
            committing.result(0.5)
        gateway = wiring.runtime().egress._forwarding
        assert isinstance(gateway, Forwarder)
        os.kill(gateway.pid, signal.SIGKILL)
        ended(paying)
        run(turn.__aexit__(None, None, None))
        assert committing.result(20).effects == ()
        assert (shop.paid, states(fork)) == ([], ["dropped"])


@pytest.mark.parametrize("found", ["dead", "dying"])
def test_what_was_accepted_by_a_gateway_that_has_died_is_sent_by_the_commit_itself(
    payer: type[Payer], till: Till, shop: Till, built: Path, found: str
) -> None:
    class Reporter(payer):  # type: ignore[misc,valid-type]
        """Reports, and does not wait."""

        egress = [Allow("shop.example", to=till.address, effect="bufferable")]

    with own_runtime(built), kibo.branch() as main:
        box = main.spawn(Reporter())
        (fork,) = main.fork()
        assert fork[box].pay("/report") == ""
        gateway = wiring.runtime().egress._forwarding
        assert isinstance(gateway, Forwarder)
        os.kill(gateway.pid, signal.SIGKILL)
        if found == "dead":
            gateway._process.wait()
        (made,) = fork.commit().effects
        assert (made.state, made.status, shop.paid) == ("done", 200, ["/report"])


def test_a_commit_that_releases_nothing_starts_no_gateway(
    payer: type[Payer], shop: Till, built: Path
) -> None:
    with own_runtime(built), kibo.branch() as main:
        box = main.spawn(payer())
        (fork,) = main.fork()
        fork[box].exec("echo changed > /work/note")
        gateway = wiring.runtime().egress._forwarding
        assert isinstance(gateway, Forwarder)
        gateway.close()
        assert fork.commit().effects == ()
        assert wiring.runtime().egress._forwarding is gateway


def test_a_box_that_was_killed_after_it_was_forked_is_told_as_ended_by_its_next_call(
    main: kibo.Branch, payer: type[Payer]
) -> None:
    payer().spawn().destroy()  # so that what is new is the box
    before = leftovers.descendants(os.getpid()).keys()
    box = main.spawn(payer())
    main.fork(2)
    kill_all(new_guests(before))
    eventually(lambda: box.status == "ended")
    with pytest.raises(InstanceEnded):
        box.look()


def test_a_box_that_is_killed_as_it_goes_on_takes_no_other_along(
    main: kibo.Branch,
    payer: type[Payer],
    shop: Till,
    calls: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = payer().spawn()
    before = leftovers.descendants(os.getpid()).keys()
    box = main.spawn(payer())
    main.fork(2)
    session, sent = wiring.runtime().states().session, threading.Event()
    order = session.order

    def tell(*arguments: Any) -> None:
        order(*arguments)
        sent.set()

    monkeypatch.setattr(session, "order", tell)
    guests = new_guests(before)
    for pid in guests:
        os.kill(pid, signal.SIGSTOP)
    looking = calls.submit(box.look)
    assert sent.wait(20)
    assert box.status == "running"  # its order came first
    kill_all(guests)
    # Told as ended: before its call had begun, or in the middle of that.
    assert isinstance(ended(looking), InstanceEnded | ActionExited)
    assert other.look() == "looked"


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # what was forked from one that was killed has gone with it
            os.kill(pid, signal.SIGKILL)


def new_guests(before: Set[int]) -> list[int]:
    found = leftovers.descendants(os.getpid())
    return [pid for pid, name in found.items() if name == "kibo-guest" and pid not in before]


def test_a_fork_of_a_forks_instance_is_held_with_its_branch(
    main: kibo.Branch, payer: type[Payer], shop: Till, calls: ThreadPoolExecutor
) -> None:
    box = main.spawn(payer())
    (fork,) = main.fork()
    (twin,) = fork[box].fork()
    paying = calls.submit(twin.pay)
    eventually(lambda: states(fork) == ["held"])
    assert shop.paid == []
    fork.commit()
    assert paying.result(20) == "receipt 1 for /pay"
    twin.destroy()


def test_a_repetition_in_a_later_fork_has_the_first_ones_answer(
    main: kibo.Branch, payer: type[Payer], shop: Till
) -> None:
    box = main.spawn(payer())
    assert box.pay("/pay", "order-1") == "receipt 1 for /pay"
    (fork,) = main.fork()
    assert fork[box].pay("/pay", "order-1") == "receipt 1 for /pay"
    assert shop.paid == ["/pay"]


def test_coroutines_commit_what_waits(payer: type[Payer], shop: Till) -> None:
    async def race() -> str:
        async with aio.branch() as main:
            box = await main.spawn(payer())
            one, two = await main.fork(2)
            got: list[str] = []

            async def pay(fork: Any, path: str) -> None:
                try:
                    got.append(await fork[box].pay(path))
                except InstanceEnded:
                    pass

            async with anyio.create_task_group() as group:
                group.start_soon(pay, one, "/one")
                group.start_soon(pay, two, "/two")
                while not (one.waits_at_boundary() and two.waits_at_boundary()):
                    await anyio.sleep(0.01)
                done = await two.commit()
            assert [each.state for each in done.effects] == ["done"]
            assert [each.state for each in await main.effects()] == ["done"]
            return got[0]

    assert anyio.run(race) == "receipt 1 for /two"
    assert shop.paid == ["/two"]


def test_explore_judges_strategies_that_wait_at_the_payment_and_the_winner_alone_pays(
    main: kibo.Branch, payer: type[Payer], shop: Till
) -> None:
    box = main.spawn(payer())
    drinks = {"espresso": 2, "latte": 4, "tea": 1}
    strategies = [(name, lambda box, name=name: box.pay(f"/{name}")) for name in drinks]

    def cheapness(branch: kibo.Branch) -> float:
        return -drinks[branch[box].files.read("/work/before").decode().strip("/")]

    found = kibo.explore(main, [(name, lambda branch, run=run: run(branch[box])) for name, run in strategies],
                         policy=kibo.BestOf(cheapness), budget=kibo.Budget(seconds=30))  # fmt: skip
    assert shop.paid == ["/tea"]
    assert found.winner is not None
    assert (found.winner.name, found.winner.value) == ("tea", "receipt 1 for /tea")
    assert sorted(attempt.state for attempt in found.attempts) == ["stopped", "stopped", "won"]
    assert box.kept() == ["receipt 1 for /tea"]
    assert [effect.state for effect in main.effects()] == ["done"]


def test_coroutines_explore_to_the_payment_too(payer: type[Payer], shop: Till) -> None:
    async def buy() -> str:
        async with aio.branch() as main:
            box = await main.spawn(payer())
            paths = ["/one", "/two", "/three"]
            strategies = [(path, lambda box, path=path: box.pay(path)) for path in paths]
            found = await aio.explore(box, strategies, budget=kibo.Budget(seconds=30))
            assert found.winner is not None
            return str(found.winner.value)

    assert anyio.run(buy) == f"receipt 1 for {shop.paid[0]}"
    assert len(shop.paid) == 1
