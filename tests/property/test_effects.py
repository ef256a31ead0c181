"""What becomes of effects, against a model: whatever is done in whatever order, none happens twice or uncommitted."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from effect_drafts import draft
from kibo.branch.history import History
from kibo.effects.ledger import Ledger
from kibo.effects.lifecycle import MOVES, OPEN, STATES, after, before
from kibo.effects.records import Outcome
from kibo.model.errors import WrongState
from kibo.store.database import Store

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
            assert sendings <= 1
            assert state not in ("done", "not_done", "in_doubt") or sendings == 1
            assert state not in ("held", "released", "dropped", "failed") or sendings == 0


def test_every_state_is_reached_and_every_open_one_has_an_end() -> None:
    assert {"held", *MOVES.values()} == set(STATES)
    assert all(before(event) == state for state, event in MOVES)
    reached = {state: {after for (at, _), after in MOVES.items() if at == state} for state in STATES}
    assert {state for state in STATES if not reached[state]} == {"done", "failed", "not_done", "dropped"}
    assert all(reached[state] for state in OPEN)


class Effects(RuleBasedStateMachine):
    """Forks, holds, commits, aborts, sends and dies, in any order."""

    branches = Bundle("branches")
    effects = Bundle("effects")

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kibo-model-"))
        self.store = Store.open(f"sqlite:///{self.place}/history.db")
        self.history = History(self.store)
        self.ledger = Ledger(self.store)
        self.parents: dict[str, str | None] = {}
        self.ended: dict[str, str] = {}
        self.made_in: dict[str, str] = {}
        self.sent: dict[str, int] = {}
        self.gateway = 0

    def teardown(self) -> None:
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

    @rule(effect=effects)
    def send(self, effect: str) -> None:
        if self.ledger.send(effect):
            self.sent[effect] = self.sent.get(effect, 0) + 1
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
            if effect.state == "held":
                assert fate == "held"
            elif effect.state != "dropped":
                assert fate == "released" or self.parents[effect.branch] is None
        assert all(count == 1 for count in self.sent.values())


TestEffects = Effects.TestCase
TestEffects.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
