"""History against a model that is plain dictionaries: whatever is done, in whatever order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

import databases
from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.model.errors import BranchClosed, BranchStale, BranchUnknown, WrongState
from kibo.store.database import Store


class Model:
    """One branch: what it sees and where it stands."""

    def __init__(self, parent: str | None, log: list[Any], world: dict[str, Any], base: int) -> None:
        self.parent = parent
        self.log = list(log)
        self.world = dict(world)
        self.base_length = len(log)
        self.version = base  # grows whenever the head or the log moves
        self.base_version = base
        self.status = "open"


class Histories(RuleBasedStateMachine):
    """Forks, appends, seals, commits, merges, aborts, collects and reopens, in any order."""

    branches = Bundle("branches")

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kibo-model-"))
        self.url = self.new_url()
        self.store = Store.open(self.url)
        self.history = History(self.store)
        self.model: dict[str, Model] = {}
        self.count = 0

    def new_url(self) -> str:
        return databases.new_history(self.place)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.place)

    def step(self) -> int:
        self.count += 1
        return self.count

    def status(self, name: str) -> str:
        one = self.model[name]
        if one.status != "open" or one.parent is None:
            return one.status
        parent = self.model.get(one.parent)
        moved = parent is None or parent.status != "open" or parent.version != one.base_version
        return "stale" if moved else "open"

    @rule(target=branches)
    def create(self) -> str:
        number = self.step()
        made = self.history.create(world={"n": number})
        self.model[made.id] = Model(None, [], {"n": number}, number)
        return made.id

    @rule(target=branches, parent=branches, twice=st.booleans())
    def fork(self, parent: str, twice: bool) -> Any:
        model = self.model.get(parent)
        if model is None or model.status != "open":
            with pytest.raises(BranchUnknown if model is None else BranchClosed):
                self.history.fork(parent)
            return parent
        if self.history.get(parent).unsealed:  # a fork seals what its parent wrote, which moves its head
            model.version = self.step()
        made = self.history.fork(parent, 2 if twice else 1)
        for each in made:
            self.model[each.id] = Model(parent, model.log, model.world, model.version)
        return made[-1].id

    @rule(branch=branches, count=st.integers(1, 3))
    def append(self, branch: str, count: int) -> None:
        drafts = [("note", f"{self.step()}".encode()) for _ in range(count)]
        if not self.writable(branch, lambda: self.history.log.extend(branch, drafts)):
            return
        model = self.model[branch]
        model.log += [(body, None) for _, body in drafts]
        model.version = self.step()

    @rule(branch=branches, change=st.booleans())
    def snapshot(self, branch: str, change: bool) -> None:
        model = self.model.get(branch)
        world = {"n": self.step()} if change or model is None else model.world
        dirty = model is not None and self.history.get(branch).unsealed > 0
        if self.writable(branch, lambda: self.history.snapshot(branch, world)) and (change or dirty):
            self.model[branch].world = world
            self.model[branch].version = self.step()

    @rule(branch=branches, change=st.booleans(), overwrite=st.booleans())
    def commit(self, branch: str, change: bool, overwrite: bool) -> None:
        model = self.model.get(branch)
        world = {"n": self.step()} if change else None
        act = lambda: self.history.commit(branch, world, overwrite=overwrite)  # noqa: E731
        if model is not None and model.status == "open" and model.parent is None:
            with pytest.raises(WrongState):
                act()
            return
        status = self.status(branch) if model is not None else ""
        if status == "stale" and self.model[model.parent].status != "open":
            with pytest.raises(BranchClosed):
                act()
        elif status == "stale" and not overwrite:
            with pytest.raises(BranchStale):
                act()
        elif self.writable(branch, act):
            model.world = world or model.world
            model.status = "committed"
            parent = self.model[model.parent]
            moved = status == "stale" or len(model.log) != model.base_length or world is not None
            parent.log, parent.world = list(model.log), dict(model.world)
            if moved or self.history.get(model.parent).head != self.history.get(branch).base:
                parent.version = self.step()

    @rule(branch=branches)
    def merge(self, branch: str) -> None:
        model = self.model.get(branch)
        if model is None or model.status != "open" or model.parent is None:
            return
        parent = self.model[model.parent]
        if parent.status != "open":
            return
        world = {"n": self.step()}
        heads = (self.history.get(model.parent).head, self.history.get(branch).head)
        self.history.record_merge(branch, world, heads)
        theirs = [(body, origin or branch) for body, origin in model.log[model.base_length :]]
        parent.log, parent.world, parent.version = parent.log + theirs, world, self.step()
        model.status = "committed"

    @rule(branch=consumes(branches))
    def abort(self, branch: str) -> None:
        model = self.model.get(branch)
        if model is None or model.status == "committed":
            with pytest.raises(BranchUnknown if model is None else BranchClosed):
                self.history.abort(branch)
            return
        ended = self.history.abort(branch)
        below = {branch} if model.status == "open" else set()
        if below:
            below |= {
                name
                for name, one in self.model.items()
                if one.status == "open" and self.descends(name, branch)
            }
        assert set(ended) == below
        for name in below:
            self.model[name].status = "aborted"

    def descends(self, name: str, ancestor: str) -> bool:
        parent = self.model[name].parent
        return parent is not None and (parent == ancestor or self.descends(parent, ancestor))

    @rule()
    def collect(self) -> None:
        done = self.history.collect(Retention(closed_s=0), names=lambda world: [f"w{world['n']}"])
        for name in done.branches:
            assert self.model.pop(name).status in ("committed", "aborted")
        left = {f"w{model.world['n']}" for model in self.model.values()}
        assert left.isdisjoint(done.resources)
        self.history.released(done.resources)
        closed = [name for name, model in self.model.items() if model.status != "open"]
        for name in closed:  # only what a branch that stays descends from
            assert any(
                self.descends(other, name) for other in self.model if self.model[other].status == "open"
            )

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.url)
        self.history = History(self.store)

    def writable(self, branch: str, act: Any) -> bool:
        """Acts; says whether it was allowed, and checks that it was refused where it was not."""
        model = self.model.get(branch)
        if model is None or model.status != "open":
            with pytest.raises(BranchUnknown if model is None else BranchClosed):
                act()
            return False
        act()
        return True

    @invariant()
    def reads_equal_the_model(self) -> None:
        for name, model in self.model.items():
            found = self.history.log.read(name, limit=10_000)
            assert [(e.body, e.origin) for e in found] == model.log
            assert [e.seq for e in found] == list(range(1, len(model.log) + 1))
            assert self.history.log.newest(name, 3) == found[-3:]
            record = self.history.get(name)
            assert record.status == self.status(name)
            assert self.history.get_snapshot(record.head).world == model.world


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("kind", databases.KINDS[1:])
@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_the_same_is_so_where_a_server_keeps_it(kind: str, examples: int) -> None:
    with databases.server(kind) as server:

        class Elsewhere(Histories):
            def new_url(self) -> str:
                return databases.new_store(server)

        run_state_machine_as_test(
            Elsewhere, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
        )
