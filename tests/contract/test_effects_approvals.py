"""Approvals in the ledger, over every database: what a person says, until when it holds, and what races with it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import bindparam, update

from effect_drafts import draft
from kibo.branch.history import History
from kibo.effects import approvals
from kibo.effects import ledger as ledgers
from kibo.effects.ledger import Ledger
from kibo.effects.records import Draft, Effect, Outcome
from kibo.model.clock import Moment
from kibo.model.errors import InvalidInput, WrongState
from kibo.store.prepared import Prepared
from kibo.store.schema import effects

pytestmark = pytest.mark.contract

WITHIN_S = 60.0
TAMPER = Prepared(update(effects).where(effects.c.id == bindparam("i")).values(body=bindparam("new")))


class Clock:
    """The two clocks of a machine, as a test sets them."""

    def __init__(self) -> None:
        self.now = Moment(1_000_000.0, 500.0, "boot-1")

    def __call__(self) -> Moment:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now = self.now.after(seconds)

    def is_set(self, seconds: float) -> None:
        """Somebody sets it: time does not pass."""
        self.now = self.now._replace(at_s=self.now.at_s + seconds)

    def restarts(self, at_s: float) -> None:
        """The machine is started again, and says that it is so late."""
        self.now = Moment(at_s, 1.0, "boot-2")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(approvals, "moment", made)
    monkeypatch.setattr(ledgers, "moment", made)
    return made


@pytest.fixture
def ledger(history: History) -> Ledger:
    return Ledger(history.store)


def asked(branch: str = "", body: bytes = b"{}") -> Draft:
    return draft(branch, body=body, approve_within_s=WITHIN_S)


def say_yes(ledger: Ledger, effect: Effect, by: str = "ada (uid 1)") -> Effect:
    return ledger.approve(effect.id, digest=effect.digest, by=by)


def state(ledger: Ledger, effect: Effect) -> str:
    return ledger.get(effect.id).effect.state


def at_once(*works: Callable[[], object]) -> list[object]:
    """Does several things at the same moment. Returns what each returned, or raised."""
    ready, found = threading.Barrier(len(works)), dict[int, object]()

    def run(number: int, work: Callable[[], object]) -> None:
        ready.wait()
        try:
            found[number] = work()
        except WrongState as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(works))]


def test_outside_of_forks_it_waits_for_its_person_and_is_sent_when_one_has_approved_it(
    history: History, ledger: Ledger
) -> None:
    for branch in ("", history.create().id):
        made = ledger.hold(asked(branch), "gw_1")
        assert (made.state, made.released_s, made.waits_for_person) == ("asking", None, True)
        assert made.due_s is not None
        assert abs(made.due_s - made.created_s - WITHIN_S) < 0.001
        assert not ledger.send(made.id, made.digest)
        assert state(ledger, made) == "asking"
        found = say_yes(ledger, made)
        assert (found.state, found.approver, found.waits_for_person) == ("released", "ada (uid 1)", False)
        assert found.approved_s == found.released_s
        assert ledger.send(made.id, made.digest)


def test_in_a_fork_it_is_held_and_a_commit_sends_what_was_approved_and_asks_for_the_rest(
    history: History, ledger: Ledger
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    first, second = (ledger.hold(asked(fork.id), "gw_1") for _ in range(2))
    plain = ledger.hold(draft(fork.id), "gw_1")
    assert [each.state for each in (first, second, plain)] == ["held"] * 3
    assert [each.waits_for_person for each in (first, second, plain)] == [True, True, False]
    assert say_yes(ledger, second).state == "held"
    done = history.commit(fork.id)
    assert [each.state for each in done.effects] == ["asking", "released", "released"]
    assert list(done.effects) == ledger.listed(main.id)
    assert say_yes(ledger, first).state == "released"


def test_in_a_fork_of_a_fork_an_approval_goes_along(history: History, ledger: Ledger) -> None:
    main = history.create()
    (outer,) = history.fork(main.id)
    (inner,) = history.fork(outer.id)
    made = ledger.hold(asked(inner.id), "gw_1")
    say_yes(ledger, made)
    assert [each.state for each in history.commit(inner.id).effects] == ["held"]
    assert [each.state for each in history.commit(outer.id).effects] == ["released"]


def test_an_abort_drops_what_waits_for_a_person_and_what_was_approved_while_it_was_held(
    history: History, ledger: Ledger
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    approved, held = (ledger.hold(asked(fork.id), "gw_1") for _ in range(2))
    waits = ledger.hold(asked(main.id), "gw_1")
    say_yes(ledger, approved)
    history.abort(main.id)
    assert {state(ledger, each) for each in (approved, held, waits)} == {"dropped"}
    with pytest.raises(WrongState, match="is dropped: its branch was aborted"):
        say_yes(ledger, waits)


def test_what_was_said_once_cannot_be_said_again(history: History, ledger: Ledger) -> None:
    (fork,) = history.fork(history.create().id)
    free, held, refused, gone = (
        ledger.hold(asked(branch), "gw_1") for branch in ("", fork.id, fork.id, "")
    )  # fmt: skip
    say_yes(ledger, free)
    say_yes(ledger, held)
    found = ledger.refuse(refused.id, by="eve", why="too dear")
    assert (found.state, found.reason) == ("dropped", "eve refused it: too dear")
    ledger.drop(gone.id, "gone")
    for effect, said in (
        (free, "was approved by ada .* and is released"),
        (held, "was approved already, by ada"),
        (refused, "is dropped: eve refused it: too dear"),
        (gone, "is dropped: gone"),
    ):
        with pytest.raises(WrongState, match=said) as error:
            say_yes(ledger, effect)
        assert error.value.hint
    ledger.send(free.id, free.digest)
    ledger.answer(free.id, Outcome(200, [], b"", True))
    for work in (lambda: say_yes(ledger, free), lambda: ledger.refuse(free.id, by="eve")):
        with pytest.raises(WrongState, match="is done"):
            work()
    with pytest.raises(WrongState):
        ledger.refuse(refused.id, by="eve")
    assert ledger.refuse(held.id, by="eve").reason == "eve refused it"
    plain = ledger.hold(draft(fork.id), "gw_1")
    for work in (lambda: say_yes(ledger, plain), lambda: ledger.refuse(plain.id, by="eve")):
        with pytest.raises(WrongState, match="needs no approval"):
            work()
    with pytest.raises(InvalidInput):
        ledger.refuse(plain.id, by="eve", why="x" * 1001)


def test_what_is_approved_and_not_sent_can_still_be_refused(ledger: Ledger) -> None:
    made = ledger.hold(asked(), "gw_1")
    say_yes(ledger, made)
    assert ledger.refuse(made.id, by="eve").state == "dropped"
    assert not ledger.send(made.id, made.digest)


def test_an_approval_is_of_one_payload(history: History, ledger: Ledger) -> None:
    (fork,) = history.fork(history.create().id)
    one, other = ledger.hold(asked(), "gw_1"), ledger.hold(asked(body=b"{...}"), "gw_1")
    with pytest.raises(WrongState, match=f"has another digest, {one.digest}"):
        ledger.approve(one.id, digest=other.digest, by="ada")
    say_yes(ledger, one)
    assert not ledger.send(one.id, other.digest)
    found = ledger.get(one.id).effect
    assert (found.state, found.reason) == ("dropped", "what is recorded of it is not what was approved")
    # Before it is approved, in the ledger itself.
    ledger._store.write(lambda tx: tx.run(TAMPER, i=other.id, new=b"{!!!}"))
    for digest in (other.digest, ledger.get(other.id).digest):
        with pytest.raises(WrongState, match="not recorded any more as it was asked for"):
            ledger.approve(other.id, digest=digest, by="ada")
    # Afterwards, while it is held.
    held = ledger.hold(asked(fork.id), "gw_1")
    say_yes(ledger, held)
    ledger._store.write(lambda tx: tx.run(TAMPER, i=held.id, new=b"{!!!}"))
    history.commit(fork.id)
    assert not ledger.send(held.id, ledger.get(held.id).digest)
    assert state(ledger, held) == "dropped"


def test_nobody_waits_for_longer_than_the_rule_says_nor_does_an_approval_hold_for_longer(
    history: History, ledger: Ledger, clock: Clock
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    held = ledger.hold(asked(fork.id), "gw_1")
    clock.passes(10 * WITHIN_S)  # what is held waits for its branch, not for a person
    say_yes(ledger, held)
    with pytest.raises(WrongState, match="already"):
        say_yes(ledger, held)
    clock.passes(WITHIN_S)
    assert [each.state for each in history.commit(fork.id).effects] == ["asking"]
    assert ledger.listed()[0].approver == ""
    clock.passes(WITHIN_S - 1)
    assert ledger.expire("gw_1") == pytest.approx(1)
    assert ledger.expire("gw_2") is None
    say_yes(ledger, held)
    clock.passes(WITHIN_S)
    assert not ledger.send(held.id, held.digest)
    assert ledger.get(held.id).effect.reason == "its approval was over before it could be sent, after 1 min"
    late, told = ledger.hold(asked(), "gw_1"), ledger.hold(asked(), "gw_1")
    clock.passes(WITHIN_S)
    with pytest.raises(WrongState, match="was dropped: nobody approved it within 1 min"):
        say_yes(ledger, late)
    assert ledger.expire("gw_1") is None
    assert [state(ledger, each) for each in (late, told)] == ["dropped", "dropped"]


def test_an_approval_that_is_over_while_its_effect_is_held_can_be_given_again(
    history: History, ledger: Ledger, clock: Clock
) -> None:
    (fork,) = history.fork(history.create().id)
    held = ledger.hold(asked(fork.id), "gw_1")
    say_yes(ledger, held)
    clock.passes(WITHIN_S)
    assert say_yes(ledger, held, by="eve").approver == "eve"
    assert [each.state for each in history.commit(fork.id).effects] == ["released"]


@pytest.mark.parametrize("jump", [-1e6, -WITHIN_S, -1.0, 1.0, WITHIN_S, 1e9])
def test_to_set_the_clock_lengthens_and_shortens_nothing(
    history: History, ledger: Ledger, clock: Clock, jump: float
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    waits, held = ledger.hold(asked(), "gw_1"), ledger.hold(asked(fork.id), "gw_1")
    say_yes(ledger, held)
    clock.is_set(jump)
    assert ledger.expire("gw_1") == pytest.approx(WITHIN_S)
    clock.passes(WITHIN_S - 1)
    say_yes(ledger, waits)
    assert [each.state for each in history.commit(fork.id).effects] == ["released"]
    assert ledger.send(held.id, held.digest)
    clock.is_set(-2 * jump)
    clock.passes(WITHIN_S)
    assert not ledger.send(waits.id, waits.digest)


@pytest.mark.parametrize(("later_s", "holds"), [(-1.0, False), (1.0, True), (WITHIN_S, False), (1e9, False)])
def test_after_the_machine_has_started_again_its_clock_decides_and_one_that_was_set_back_ends_an_approval(
    history: History, ledger: Ledger, clock: Clock, later_s: float, holds: bool
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    free, held = ledger.hold(asked(), "gw_1"), ledger.hold(asked(fork.id), "gw_1")
    say_yes(ledger, free)
    say_yes(ledger, held)
    clock.restarts(clock.now.at_s + later_s)
    assert ledger.send(free.id, free.digest) == holds
    assert [each.state for each in history.commit(fork.id).effects] == ["released" if holds else "asking"]


def test_of_two_people_who_approve_at_once_one_has(ledger: Ledger) -> None:
    for _ in range(5):
        made = ledger.hold(asked(), "gw_1")
        found = at_once(*(lambda by=by, made=made: say_yes(ledger, made, by) for by in ("ada", "eve", "joe")))
        (done,) = (each for each in found if isinstance(each, Effect))
        assert sum("was approved by" in str(each) for each in found) == 2
        assert ledger.get(made.id).effect.approver == done.approver


def test_an_approval_and_a_commit_that_meet_release_it_in_either_order(
    history: History, ledger: Ledger
) -> None:
    for _ in range(5):
        main = history.create()
        (fork,) = history.fork(main.id)
        made = [ledger.hold(asked(fork.id), "gw_1") for _ in range(6)]
        works = [lambda each=each: say_yes(ledger, each) for each in made]
        found = at_once(lambda fork=fork: history.commit(fork.id), *works)
        assert not any(isinstance(each, WrongState) for each in found)
        assert {each.state for each in ledger.listed(main.id)} == {"released"}


@pytest.mark.parametrize("other", ["abort", "leave", "refuse", "expire"])
def test_an_approval_and_what_drops_it_that_meet_leave_one_of_them(
    history: History, ledger: Ledger, other: str
) -> None:
    for _ in range(5):
        main = history.create()
        within_s = 1e-6 if other == "expire" else WITHIN_S
        made = ledger.hold(draft(main.id, approve_within_s=within_s), "gw_1")
        ways = {
            "abort": lambda main=main: history.abort(main.id),
            "leave": lambda made=made: ledger.drop(made.id, "gone"),
            "refuse": lambda made=made: ledger.refuse(made.id, by="eve"),
            "expire": lambda: ledger.expire("gw_1"),
        }
        said, _ = at_once(lambda made=made: say_yes(ledger, made), ways[other])
        left = state(ledger, made)
        assert left in (("dropped",) if other in ("expire", "refuse") else ("dropped", "released"))
        assert isinstance(said, Effect) or left == "dropped"
        assert ledger.send(made.id, made.digest) == (left == "released")


def test_of_a_dead_gateway_what_asked_is_dropped_and_what_was_approved_is_left_to_its_heir_while_that_holds(
    history: History, ledger: Ledger, clock: Clock
) -> None:
    waits, sent, late = (ledger.hold(asked(), "gw_1") for _ in range(3))
    for each in (sent, late):
        say_yes(ledger, each)
    ledger.bury("gw_1", "gw_2")
    assert state(ledger, waits) == "dropped"
    assert [each.id for each in ledger.unsent("gw_2")] == [sent.id, late.id]
    assert ledger.send(sent.id, sent.digest)
    clock.passes(WITHIN_S)
    assert not ledger.send(late.id, late.digest)
    assert state(ledger, late) == "dropped"
