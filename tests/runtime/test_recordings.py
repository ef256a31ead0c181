"""Recording and replaying what boxes, branches and unchanged programs are answered."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
from inn_boxes import Inn
from kibo import Allow, Secret, aio, wiring
from kibo.effects.recordings import Recordings
from kibo.model.errors import ActionRaised, InvalidInput, RecordingUnknown, RequestUnknown, SnapshotUnknown
from patience import eventually
from recorded_boxes import Watcher
from running_till import Till

pytestmark = pytest.mark.runtime


@pytest.fixture(scope="module")
def watcher(till: Till) -> type[Watcher]:
    class Customer(Watcher):
        """Looks, and pays."""

        egress = [Allow("shop.example", to=till.address)]

    return Customer


@pytest.fixture
def nobody(shop: Till, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the shop know of nobody from now on: whoever asks it anything is seen."""

    def close() -> None:
        def refuse(request: Any, address: Any) -> bool:
            shop.paid.append("a connection")
            return False

        monkeypatch.setattr(shop.server, "verify_request", refuse)

    return close


def names() -> list[str]:
    return [each.name for each in Recordings(wiring.runtime().home).listed()]


def recorded(name: str) -> list[bytes]:
    with Recordings(wiring.runtime().home).opened(name) as stored:
        return [each.question.target for each in stored.index.exchanges]


def test_a_branch_is_replayed_with_its_launch_its_payments_and_its_forks_and_the_shop_hears_nothing(
    watcher: type[Watcher], shop: Till, calls: ThreadPoolExecutor, nobody: Callable[[], None]
) -> None:
    def play(**tape: Any) -> tuple[list[str], list[tuple[str, int | None]], list[str]]:
        with kibo.branch("buy", **tape) as main:
            box = main.spawn(watcher())
            said = [*box.saw(), box.pay("/root")]
            forks = main.fork(3)
            committing = [calls.submit(fork[box].pay, f"/pay/{number}") for number, fork in enumerate(forks)]
            eventually(lambda: all(fork.waits_at_boundary() for fork in forks))
            done = forks[1].commit()
            said.append(committing[1].result(20))
            for each in (committing[0], committing[2]):
                assert each.exception(20) is not None
            assert main.unrecorded() == []
            states = [each.state for each in main.effects()]
            return said, [(each.state, each.status) for each in done.effects], states

    first = play(record="bought")
    assert first[1:] == ([("done", 200)], ["done", "done"])
    assert first[0] == ["looked", "looked", "receipt 1 for /root", "receipt 2 for /pay/1"]
    # A fork resumes, too.
    assert recorded("bought") == [b"/launched", b"/resumed", b"/root", *[b"/resumed"] * 3, b"/pay/1"]
    nobody()
    shop.paid.clear()
    for _ in range(2):
        again = play(replay="bought")
        assert again == (first[0], [("replayed", 200)], ["replayed", "replayed"])
    assert shop.paid == []


def test_what_a_fork_does_at_once_is_replayed_at_once_and_leaves_nothing_to_undo(
    till: Till, shop: Till, nobody: Callable[[], None]
) -> None:
    class Guest(Inn):
        """Takes rooms at the inn."""

        egress = [Allow("inn.example", to=till.address)]

    def play(**tape: Any) -> tuple[str, list[str], list[str]]:
        with kibo.branch("a room", **tape) as main:
            box = main.spawn(Guest())
            (fork,) = main.fork()
            said = fork[box].take("1")
            undone = [each.state for each in fork.abort().effects]
            return said, undone, [each.state for each in fork.effects()]

    said, undone, states = play(record="rooms")
    assert (undone, states) == (["undone"], ["undone", "done", "done"])
    assert shop.paid == ["/take/1", "/free/1/1/1"]
    nobody()
    shop.paid.clear()
    assert play(replay="rooms") == (said, [], ["dropped", "replayed"])
    assert shop.paid == []


def test_what_a_replay_has_no_answer_to_is_an_error_in_the_box_and_at_the_end(
    watcher: type[Watcher], shop: Till, nobody: Callable[[], None]
) -> None:
    with kibo.branch(record="small") as main:
        main.spawn(watcher()).ask("/a")
    nobody()
    told = pytest.raises(RequestUnknown, match="the closest that it has is GET")
    with told as error, kibo.branch(replay="small") as main:
        box = main.spawn(watcher())
        assert box.ask("/a") == "looked"
        for call in (lambda: box.ask("/b"), box.pay):
            with pytest.raises(ActionRaised, match="599"):
                call()
        assert [each.url for each in main.unrecorded()] == [
            "http://shop.example/b",
            "http://shop.example/pay",
        ]
        assert main.effects() == []
    assert error.value.details["count"] == 2
    # An error that is on its way stays what it is, and says so as well.
    with pytest.raises(ValueError, match="of the program") as program, kibo.branch(replay="small") as main:
        with pytest.raises(ActionRaised):
            main.spawn(watcher()).ask("/b")
        raise ValueError("of the program")
    assert "has no answer to GET http://shop.example/b" in program.value.__notes__[0]
    assert shop.paid == []


def test_a_key_that_a_replay_used_is_not_used_up(watcher: type[Watcher], shop: Till) -> None:
    with kibo.branch(record="keyed") as main:
        assert main.spawn(watcher()).pay("/pay", "order-1") == "receipt 1 for /pay"
    shop.paid.clear()
    with kibo.branch(replay="keyed") as main:
        box = main.spawn(watcher())
        for _ in range(2):
            assert box.pay("/pay", "order-1") == "receipt 1 for /pay"
        snapshot = main.snapshot("replayed")
    assert shop.paid == []
    with kibo.checkout(snapshot.id, watcher()) as live:
        (name,) = live.instances
        assert live[name].pay("/pay", "order-1") == "receipt 1 for /pay"
        assert live[name].pay("/pay", "order-1") == "receipt 1 for /pay"
    assert shop.paid == ["/pay"]


def test_what_nobody_waits_for_is_sent_at_the_commit_recorded_and_replayed(shop: Till) -> None:
    class Mailer(Watcher):
        """Sends mail, and goes on."""

        egress = [
            Allow("shop.example", to=shop.address),
            Allow("shop.example", to=shop.address, paths=("/mail/*",), effect="bufferable"),
        ]

    def play(**tape: Any) -> list[str]:
        with kibo.branch(**tape) as main:
            mailer = main.spawn(Mailer())
            one, two = main.fork(2)
            assert [each[mailer].pay(f"/mail/{number}") for number, each in enumerate((one, two))] == ["", ""]
            assert not one.waits_at_boundary()
            assert shop.paid == []
            return [effect.state for effect in one.commit().effects]

    assert play(record="mail") == ["done"]
    assert shop.paid == ["/mail/0"]
    shop.paid.clear()
    assert play(replay="mail") == ["replayed"]
    assert shop.paid == []


def test_a_fork_whose_payment_was_not_recorded_fails_when_it_is_committed(
    watcher: type[Watcher], shop: Till, calls: ThreadPoolExecutor, nobody: Callable[[], None]
) -> None:
    with kibo.branch(record="unpaid") as main:
        main.spawn(watcher())
    nobody()
    with pytest.raises(RequestUnknown), kibo.branch(replay="unpaid") as main:
        box = main.spawn(watcher())
        (fork,) = main.fork()
        committing = calls.submit(fork[box].pay)
        eventually(fork.waits_at_boundary)
        assert [each.state for each in fork.commit().effects] == ["failed"]
        assert "599" in str(committing.exception(20))
    assert shop.paid == []


def test_an_instance_is_recorded_until_it_ends_however_it_does(watcher: type[Watcher], shop: Till) -> None:
    with watcher().spawn(record="with") as box:
        box.ask("/with")
    box = watcher().spawn(record="destroyed")
    box.ask("/destroyed")
    box.destroy()
    watcher().spawn(record="unreferenced").ask("/unreferenced")
    gc.collect()
    eventually(lambda: {"with", "destroyed", "unreferenced"} <= set(names()))
    for name in ("with", "destroyed", "unreferenced"):
        assert recorded(name) == [b"/launched", b"/resumed", f"/{name}".encode()]
    with watcher().spawn(replay="with") as box:
        (fork,) = box.fork()
        with fork:
            assert fork.ask("/with") == "looked"
    with pytest.raises(RequestUnknown), watcher().spawn(replay="with") as box, pytest.raises(ActionRaised):
        box.ask("/elsewhere")


def test_a_recording_without_a_name_gets_one(watcher: type[Watcher], shop: Till) -> None:
    before = set(names())
    with kibo.branch(record=True) as main:
        main.spawn(watcher())
    (name,) = set(names()) - before
    assert name.startswith("rec_")


def test_states_that_were_launched_in_a_replay_are_nobody_elses(watcher: type[Watcher], shop: Till) -> None:
    with kibo.branch(record="states") as main:
        main.spawn(watcher())
    states = wiring.runtime().states()
    before = set(states._ready)
    with kibo.branch(replay="states") as main:
        main.spawn(watcher())
        assert len(set(states._ready) - before) == 1
    assert set(states._ready) == before


def test_a_replay_from_a_file_needs_no_secret(
    till: Till, shop: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holder(Watcher):
        """Has a secret."""

        egress = [Allow("shop.example", to=till.address)]
        secrets = [Secret("SHOP_CARD", hosts=["shop.example"])]

    monkeypatch.setenv("SHOP_CARD", "4000-v4lue")
    with kibo.branch(record="carded") as main:
        said = main.spawn(Holder()).ask("/?card=kibo-secret-SHOP_CARD")
    monkeypatch.delenv("SHOP_CARD")
    file = tmp_path / "carded.recording"
    recordings = Recordings(wiring.runtime().home)
    recordings.send("carded", file)
    recordings.remove("carded")
    assert b"4000-v4lue" not in file.read_bytes()
    with kibo.branch(replay=file) as main:
        assert main.spawn(Holder()).ask("/?card=kibo-secret-SHOP_CARD") == said


def test_curl_and_urllib_are_replayed_like_actions(watcher: type[Watcher], shop: Till) -> None:
    programs = (
        "curl -sS http://shop.example/curl",
        "curl -sS --data x=1 http://shop.example/pay/curl",
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://shop.example/py\").read())'",
    )

    def play(**tape: Any) -> list[str]:
        with watcher().spawn(**tape) as box:
            return [box.exec(program).stdout for program in programs]

    assert play(record="programs") == play(replay="programs")
    assert shop.paid == ["/pay/curl"]


def test_what_is_checked_out_is_recorded_until_its_block_ends_committed_or_not(
    watcher: type[Watcher], shop: Till, nobody: Callable[[], None]
) -> None:
    with kibo.branch() as main:
        main.spawn(watcher())
        begun = main.snapshot().id

    def play(committing: bool, **tape: Any) -> list[str]:
        standing, _ = wiring.runtime().records().standing().checkout(begun)
        with kibo.checkout(standing.id, watcher(), **tape) as branch:
            (box,) = branch.instances.values()
            seen = [*box.saw(), box.ask("/checked-out")]
            if committing:
                branch.commit()
        return seen

    async def play_aside(**tape: Any) -> str:
        async with aio.checkout(begun, watcher(), **tape) as branch:
            (box,) = branch.instances.values()
            return str(await box.ask("/aside"))

    seen = [play(committing, record=f"checked-out-{committing}") for committing in (True, False)]
    aside = anyio.run(partial(play_aside, record="aside"))
    assert recorded("checked-out-True") == recorded("checked-out-False")
    assert recorded("aside")[-1:] == [b"/aside"]
    nobody()
    assert [play(committing, replay=f"checked-out-{committing}") for committing in (True, False)] == seen
    assert anyio.run(partial(play_aside, replay="aside")) == aside
    with pytest.raises(RequestUnknown), kibo.checkout(begun, watcher(), replay="aside") as branch:
        (box,) = branch.instances.values()
        with pytest.raises(ActionRaised):
            box.ask("/other")
    with pytest.raises(SnapshotUnknown):
        kibo.checkout("snap_none", watcher(), record="kept")
    assert "kept" not in names()
    assert shop.paid == []


def test_coroutines_record_and_replay(watcher: type[Watcher], shop: Till) -> None:
    async def play(**tape: Any) -> str:
        async with aio.branch("look", **tape) as main:
            box = await main.spawn(watcher())
            return str(await box.ask("/aio"))

    async def alone(**tape: Any) -> str:
        async with aio.spawn(watcher(), **tape) as box:
            return str(await box.ask("/alone"))

    async def both() -> None:
        for each in (play, alone):
            assert await each(record=f"aio-{each.__name__}") == "looked"
            assert await each(replay=f"aio-{each.__name__}") == "looked"
        with pytest.raises(RequestUnknown):
            async with aio.branch(replay="aio-play") as main:
                box = await main.spawn(watcher())
                with pytest.raises(ActionRaised):
                    await box.ask("/other")
                assert len(await main.unrecorded()) == 1

    anyio.run(both)


def test_a_tree_that_is_interrupted_leaves_no_recording(watcher: type[Watcher], shop: Till) -> None:
    with pytest.raises(KeyboardInterrupt), kibo.branch(record="interrupted") as main:
        main.spawn(watcher())
        raise KeyboardInterrupt
    assert "interrupted" not in names()
    assert not list(Recordings(wiring.runtime().home).folder.glob(".*"))


def test_words_that_say_nothing_are_refused(watcher: type[Watcher]) -> None:
    with pytest.raises(InvalidInput, match="either records or replays"):
        kibo.branch(record="a", replay="b")
    with pytest.raises(InvalidInput, match="cannot be called"):
        kibo.branch(record="../a")
    with pytest.raises(RecordingUnknown):
        watcher().spawn(replay="nothing-of-that-name")
    with pytest.raises(RecordingUnknown):
        kibo.branch(replay="/nowhere/x.recording")
