"""What becomes of effects, against a model: whatever is done in whatever order, none happens twice or uncommitted."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

import databases
from effect_drafts import call, draft
from kibo.branch.history import History
from kibo.effects import approvals
from kibo.effects import ledger as ledgers
from kibo.effects.calls import Calls
from kibo.effects.ledger import Ledger
from kibo.effects.lifecycle import CALL_MOVES, MOVES, OPEN, STATES, after, before
from kibo.effects.records import Effect, Outcome
from kibo.model.clock import Moment
from kibo.model.errors import BranchClosed, WrongState
from kibo.store.database import Store

WITHIN_S = 60.0
EVENTS = sorted({event for _, event in MOVES})


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_no_life_leads_to_two_sendings_or_from_an_end(events: list[str]) -> None:
    for start in ("held", "sending"):
        state, sendings = start, int(start == "sending")
        for event in events:
            try:
                state = after(state, event)
            except WrongState:
                continue
            sendings += event == "send"
            assert sendings <= 1, "a repetition has the key of the one that it repeats"
            assert state not in ("done", "not_done", "in_doubt") or sendings == 1
            assert state not in ("held", "asking", "released", "dropped", "failed") or sendings == 0


def test_every_state_is_reached_and_every_open_one_has_an_end() -> None:
    assert {"held", *MOVES.values(), *CALL_MOVES.values()} == set(STATES)
    assert all(state in before(event) for moves in (MOVES, CALL_MOVES) for state, event in moves)
    reached = {state: {after for (at, _), after in MOVES.items() if at == state} for state in STATES}
    ends = {"done", "failed", "not_done", "dropped", "replayed"}
    assert {state for state in STATES if not reached[state]} == ends | {"not_undone", "undoing", "undone"}
    assert all(reached[state] for state in OPEN)


class Effects(RuleBasedStateMachine):
    """Forks, holds, asks, approves, refuses, commits, aborts, sends and dies, in any order, while time passes."""

    branches = Bundle("branches")
    effects = Bundle("effects")

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kibo-model-"))
        self.store = Store.open(databases.new_history(self.place))
        self.history = History(self.store)
        self.ledger, self.calls = Ledger(self.store), Calls(self.store)
        self.parents: dict[str, str | None] = {}
        self.ended: dict[str, str] = {}
        self.made_in: dict[str, str] = {}
        self.sent: dict[str, int] = {}
        self.gateway = 0
        self.now = Moment(1_000_000.0, 500.0, "boot")
        self.asks: set[str] = set()
        #: Which have been approved, and when by the clock that nobody sets.
        self.approved: dict[str, float] = {}
        self.clocks = pytest.MonkeyPatch()
        for module in (approvals, ledgers):
            self.clocks.setattr(module, "moment", lambda: self.now)

    def teardown(self) -> None:
        self.clocks.undo()
        self.store.close()
        shutil.rmtree(self.place)

    @rule(target=branches)
    def create(self) -> str:
        made = self.history.create()
        self.parents[made.id] = None
        return made.id

    @rule(target=branches, parent=branches)
    def fork(self, parent: str) -> str:
        if parent in self.ended:
            return parent
        (made,) = self.history.fork(parent)
        self.parents[made.id] = parent
        return made.id

    @rule(branch=branches)
    def commit(self, branch: str) -> None:
        parent = self.parents[branch]
        if branch not in self.ended and parent is not None and parent not in self.ended:
            self.history.commit(branch, {"of": branch}, overwrite=True)
            self.ended[branch] = "committed"

    @rule(branch=branches)
    def abort(self, branch: str) -> None:
        if branch not in self.ended:
            for each in self.history.abort(branch):
                self.ended[each] = "aborted"

    @rule(target=effects, branch=branches)
    def hold(self, branch: str) -> str:
        made = self.ledger.hold(draft(branch), f"gw_{self.gateway}")
        self.made_in[made.id] = branch
        return made.id

    @rule(target=effects, branch=branches)
    def hold_for_a_person(self, branch: str) -> str:
        made = self.ledger.hold(draft(branch, approve_within_s=WITHIN_S), f"gw_{self.gateway}")
        self.made_in[made.id] = branch
        self.asks.add(made.id)
        return made.id

    @rule(effect=effects, right=st.booleans())
    def approve(self, effect: str, right: bool) -> None:
        before = self.ledger.get(effect).effect
        try:
            now = self.ledger.approve(effect, digest=before.digest if right else "0" * 64, by="ada")
        except WrongState:
            return
        assert right
        assert effect in self.asks
        assert not self.holds(effect)
        assert (before.state, now.state) in (("held", "held"), ("asking", "released"))
        self.approved[effect] = self.now.up_s

    @rule(effect=effects)
    def refuse(self, effect: str) -> None:
        try:
            self.ledger.refuse(effect, by="eve")
        except WrongState:
            return
        assert effect in self.asks
        assert effect not in self.sent

    @rule()
    def expire(self) -> None:
        left_s = self.ledger.expire(f"gw_{self.gateway}")
        assert left_s is None or 0 < left_s <= WITHIN_S
        for effect in self.ledger.listed():
            if effect.state == "asking":
                assert left_s is not None

    @rule(seconds=st.sampled_from([1.0, WITHIN_S / 2, WITHIN_S]))
    def pass_time(self, seconds: float) -> None:
        self.now = self.now.after(seconds)

    @rule(seconds=st.sampled_from([-1e6, -WITHIN_S, WITHIN_S]))
    def set_the_clock(self, seconds: float) -> None:
        self.now = self.now._replace(at_s=self.now.at_s + seconds)

    def holds(self, effect: str) -> bool:
        """Whether somebody has approved it, not too long ago."""
        return effect in self.approved and self.now.up_s - self.approved[effect] < WITHIN_S

    @rule(branch=branches)
    def call(self, branch: str) -> None:
        """Takes something in a branch that can be given back."""
        try:
            made = self.calls.begin(call(branch), "call_1")
        except BranchClosed:
            assert self.fate(branch) == "dropped"
            return
        assert isinstance(made, Effect)
        self.calls.returned(made.id, b"")
        self.made_in[made.id] = branch

    @rule(effect=effects)
    def send(self, effect: str) -> None:
        if self.ledger.send(effect, self.ledger.get(effect).digest):
            self.sent[effect] = self.sent.get(effect, 0) + 1
            assert effect not in self.asks or self.holds(effect)
            assert self.parents[self.ledger.get(effect).effect.branch] is None

    @rule(effect=effects)
    def answer(self, effect: str) -> None:
        if self.ledger.answer(effect, Outcome(200, [], b"", True)):
            assert self.sent[effect] == 1

    @rule(effect=effects)
    def disconnect(self, effect: str) -> None:
        if self.ledger.drop(effect, "gone"):
            assert effect not in self.sent

    @rule(adopted=st.booleans())
    def die(self, adopted: bool) -> None:
        old, self.gateway = f"gw_{self.gateway}", self.gateway + 1
        self.ledger.bury(old, f"gw_{self.gateway}" if adopted else None)
        assert all(each.state == "released" for each in self.ledger.unsent(old))

    def fate(self, branch: str) -> str:
        at: str = branch
        while self.parents[at] is not None:
            if at not in self.ended:
                return "held"
            if self.ended[at] == "aborted":
                return "dropped"
            at = self.parents[at]  # type: ignore[assignment]
        return "dropped" if self.ended.get(at) == "aborted" else "released"

    @invariant()
    def nothing_happens_that_is_not_committed_and_nothing_twice(self) -> None:
        for effect in self.ledger.listed():
            fate = self.fate(self.made_in[effect.id])
            if effect.action is not None:
                assert effect.state == ("not_undone" if fate == "dropped" else "done")
                continue
            assert effect.state != "asking" or effect.id in self.asks
            if effect.state == "released" and effect.id in self.asks:
                assert effect.id in self.approved
            if effect.state == "held":
                assert fate == "held"
            elif effect.state != "dropped":
                assert fate == "released" or self.parents[effect.branch] is None
        assert all(count == 1 for count in self.sent.values())


TestEffects = Effects.TestCase
TestEffects.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
