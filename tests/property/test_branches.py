"""Branches of running boxes against plain dictionaries: whatever is done, in whatever order, both say the same.

The model knows of each branch what its instances hold, in files and live, and of each instance a stamp that changes
with whatever may have changed it. Two stamps that are equal are what history calls the same world. Of what was said in
a branch, to its agent and among its instances, it knows the entries, in order.
"""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kibo
from kibo.model.errors import (
    BranchClosed,
    BranchStale,
    InstanceEnded,
    MergeConflict,
    ReadsChanged,
    WrongState,
)
from kibo.runtime.trees.conflict import THEIRS
from own_runtimes import own_runtime
from value_boxes import Values

#: Names that values have; the box keeps each in a file of that name, too.
VALUES = ("a", "b")
#: Names that files have which no value has.
FILES = ("f", "g", "d/h", "start")
WORKSPACE = {"start": "as the host has it", "d/h": "deep"}

pytestmark = pytest.mark.timeout(600)


class Inside:
    """What the model knows of one instance in one branch."""

    def __init__(self, files: dict[str, str], stamp: int) -> None:
        self.files = dict(files)
        self.values: dict[str, int] = {}
        self.stamp = stamp
        self.start = dict(files)

    def copied(self, *, live: bool = True, start: bool = False) -> Inside:
        made = copy.deepcopy(self)
        if not live:
            made.values = {}
        if start:
            made.start = dict(self.files)
        return made


World = dict[str, Inside]
#: A message: whom it is for, or nobody where the agent was told something; its number; whether it was said or is done.
Said = tuple[str, int, bool]


class Line:
    """What the model knows of one branch, and the branch."""

    def __init__(self, branch: Any, parent: Line | None, world: World, head: int) -> None:
        self.branch, self.parent = branch, parent
        self.now, self.base, self.sealed = world, copy.deepcopy(world), stamps(world)
        self.log: list[Said] = [] if parent is None else list(parent.log)
        self.base_length = len(self.log)
        self.unsealed = False  # something was said since the head
        self.head = self.base_head = head
        self.maker = self if parent is None else parent.maker  # of the head
        self.status = "open"
        self.stopped = False  # nothing runs in it any more, though it may be merged
        self.children: list[Line] = []

    @property
    def runs(self) -> bool:
        return self.status == "open" and not self.stopped

    @property
    def shown(self) -> str:
        """Its status as its user sees it."""
        if self.status != "open" or self.parent is None:
            return self.status
        parent = self.parent
        moved = self.stopped or parent.status != "open" or parent.head != self.base_head or parent.unsealed
        return "stale" if moved else "open"

    @property
    def refusal(self) -> type[Exception] | None:
        """What a call raises that only an open branch takes."""
        if self.status != "open":
            return BranchClosed
        return BranchStale if self.stopped else None

    def told(self) -> list[int]:
        return [number for to, number, _ in self.log if not to]

    def unread(self, name: str) -> list[int]:
        mine = [(number, said) for to, number, said in self.log if to == name]
        return [number for number, said in mine if said and (number, False) not in mine]


def stamps(world: World) -> dict[str, int]:
    return {name: each.stamp for name, each in world.items()}


def differing(one: dict[str, str], two: dict[str, str]) -> set[str]:
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


class Branches(RuleBasedStateMachine):
    """Everything that can be done to branches, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kibo-model-"))
        for name, text in WORKSPACE.items():
            (self.place / name).parent.mkdir(exist_ok=True)
            (self.place / name).write_text(text)
        self.lines: list[Line] = []
        self.marks: list[tuple[str, Line, World, list[Said], int]] = []
        self.numbers = itertools.count(1)

    def teardown(self) -> None:
        for line in self.lines:
            if line.parent is None:
                line.branch.close()
        shutil.rmtree(self.place)

    # -- what the model does

    def pick(self, which: int, *, runs: bool = False) -> Line:
        choice = [line for line in self.lines if line.runs] if runs else self.lines
        return choice[which % len(choice)]

    def inside(self, line: Line, which: int) -> tuple[Any, Inside]:
        names = sorted(line.now)
        name = names[which % len(names)]
        return line.branch[name], line.now[name]

    def seal(self, line: Line) -> None:
        """A branch that has changed since its head gets another."""
        if line.sealed != stamps(line.now) or line.unsealed:
            line.head, line.sealed, line.maker = next(self.numbers), stamps(line.now), line
            line.unsealed = False

    def refused(self, error: type[Exception] | None, act: Callable[[], Any]) -> bool:
        if error is None:
            return False
        with pytest.raises(error) as raised:
            act()
        assert type(raised.value) is error
        return True

    def end(self, line: Line, status: str) -> None:
        """A branch ends by a commit: what was forked from its parent, and from it, runs no more."""
        parent = line.parent
        assert parent is not None
        line.status = status
        stopping = [*parent.children, line]
        while stopping:
            one = stopping.pop()
            one.stopped = True
            stopping += one.children
        parent.sealed, parent.unsealed = stamps(parent.now), False

    def took(self, line: Line, theirs: World, fresh: set[str]) -> None:
        """The parent has a world now; instances that both have keep where they began."""
        parent = line.parent
        assert parent is not None
        for name, each in theirs.items():
            if name in parent.now:
                each.start = dict(parent.now[name].start)
            if name in fresh:
                each.values = {}
        parent.now = theirs

    # -- what is done

    @initialize(instances=st.integers(1, 2), workspace=st.booleans())
    def begin(self, instances: int, workspace: bool) -> None:
        branch = kibo.branch("to be modelled")
        self.lines.append(Line(branch, None, {}, next(self.numbers)))
        for _ in range(instances):
            self.spawn(0, workspace)

    @rule(which=st.integers(0, 30), workspace=st.booleans())
    def spawn(self, which: int, workspace: bool) -> None:
        line = self.pick(which)
        place = self.place if workspace else None
        act = lambda: line.branch.spawn(Values(), workspace=place)  # noqa: E731
        if self.refused(line.refusal, act) or len(line.now) > 2:
            return
        made = act()
        [name] = line.branch.instances.keys() - line.now.keys()
        assert line.branch[name] is made
        line.now[name] = Inside(WORKSPACE if workspace else {}, next(self.numbers))

    @rule(which=st.integers(0, 30), box=st.integers(0, 3), name=st.sampled_from(VALUES), few=st.booleans())
    def put(self, which: int, box: int, name: str, few: bool) -> None:
        line = self.pick(which)
        if not line.now:
            return
        value = 1 if few else next(self.numbers)
        instance, model = self.inside(line, box)
        if self.refused(None if line.runs else InstanceEnded, lambda: instance.put(name, value)):
            return
        instance.put(name, value)
        model.values[name], model.files[name] = value, repr(value)
        model.stamp = next(self.numbers)

    @precondition(lambda self: any(line.runs and line.now for line in self.lines))
    @rule(
        which=st.integers(0, 30),
        box=st.integers(0, 3),
        name=st.sampled_from(FILES),
        how=st.sampled_from(["write", "same", "exec", "remove", "rename"]),
        to=st.sampled_from(FILES),
    )
    def change(self, which: int, box: int, name: str, how: str, to: str) -> None:
        line = self.pick(which, runs=True)
        if not line.now:
            return
        instance, model = self.inside(line, box)
        if how in ("remove", "rename") and name not in model.files:
            return
        if how == "rename" and (name == to or "d/h" in (name, to)):
            return
        text = "the same" if how == "same" else f"text {next(self.numbers)}"
        if how == "exec":
            done = instance.exec(
                ["sh", "-c", 'mkdir -p "$(dirname "$0")" && printf %s "$1" > "$0"', name, text]
            )
            assert done.returncode == 0, done
        elif how == "remove":
            instance.files.remove(name)
        elif how == "rename":
            assert instance.exec(["mv", name, to]).returncode == 0
        else:
            instance.files.write(name, text)
        if how in ("remove", "rename"):
            text = model.files.pop(name)
        if how != "remove":
            model.files[to if how == "rename" else name] = text
        model.stamp = next(self.numbers)

    @rule(which=st.integers(0, 30), box=st.integers(0, 3))
    def destroy(self, which: int, box: int) -> None:
        line = self.pick(which)
        if not line.runs or len(line.now) < 2:
            return
        instance, _ = self.inside(line, box)
        instance.destroy()
        del line.now[instance._member]

    @rule(which=st.integers(0, 30))
    def tell(self, which: int) -> None:
        line, number = self.pick(which), next(self.numbers)
        act = lambda: line.branch.context.user(str(number))  # noqa: E731
        if self.refused(line.refusal, act):
            return
        act()
        line.log.append(("", number, True))
        line.unsealed = True

    @rule(which=st.integers(0, 30), one=st.integers(0, 3), other=st.integers(0, 3))
    def send(self, which: int, one: int, other: int) -> None:
        line, number = self.pick(which), next(self.numbers)
        if not line.runs or not line.now:
            return
        (sender, _), (to, _) = self.inside(line, one), self.inside(line, other)
        sender.send_message(to, number)
        line.log.append((to._member, number, True))
        line.unsealed = True

    @rule(which=st.integers(0, 30), box=st.integers(0, 3))
    def receive(self, which: int, box: int) -> None:
        line = self.pick(which)
        if not line.runs or not line.now:
            return
        instance, _ = self.inside(line, box)
        expected = line.unread(instance._member)
        message = instance.mail.receive()
        assert (message and message.body) == (expected[0] if expected else None)
        if message is not None:
            instance.mail.done(message)
            line.log.append((instance._member, expected[0], False))
            line.unsealed = True

    @rule(which=st.integers(0, 30), n=st.integers(1, 3), live=st.sampled_from(["prefer", "prefer", "never"]))
    def fork(self, which: int, n: int, live: str) -> None:
        line = self.pick(which)
        act = lambda: line.branch.fork(n, live=live)  # noqa: E731
        if self.refused(line.refusal, act) or sum(each.runs for each in self.lines) + n > 8:
            return
        made = act()
        self.seal(line)
        assert len(made) == n
        for branch in made:
            assert branch.live is (not branch.reasons)
            cold = {reason.partition(":")[0] for reason in branch.reasons}
            assert live != "never" or cold == line.now.keys()
            world = {name: each.copied(live=name not in cold, start=True) for name, each in line.now.items()}
            child = Line(branch, line, world, line.head)
            line.children.append(child)
            self.lines.append(child)

    @rule(which=st.integers(0, 30))
    def commit(self, which: int) -> None:
        line = self.pick(which)
        act = line.branch.commit
        if self.refused(line.refusal or (WrongState if line.parent is None else line.parent.refusal), act):
            return
        parent = line.parent
        assert parent is not None
        self.seal(parent)
        if self.refused(BranchStale if parent.head != line.base_head else None, act):
            return
        done = act()
        self.seal(line)
        assert done.fast_forward
        parent.head, parent.maker, parent.log = line.head, line.maker, list(line.log)
        self.took(line, {name: each.copied() for name, each in line.now.items()}, set())
        self.end(line, "committed")

    @rule(which=st.integers(0, 30))
    def overwrite(self, which: int) -> None:
        line = self.pick(which)
        act = lambda: line.branch.commit(overwrite=True)  # noqa: E731
        if self.closed(line, act):
            return
        parent = line.parent
        assert parent is not None
        act()
        self.seal(parent)
        self.seal(line)
        if parent.head == line.base_head:
            parent.head, parent.maker = line.head, line.maker
        else:
            parent.head, parent.maker = next(self.numbers), parent
        parent.log = list(line.log)
        theirs = {name: each.copied() for name, each in line.now.items()}
        fresh = set()
        if line.stopped:  # only its files are left
            for name, each in theirs.items():
                ours = parent.now.get(name)
                if ours is not None and ours.stamp == each.stamp:
                    each.values = dict(ours.values)
                else:
                    fresh.add(name)
        self.took(line, theirs, fresh)
        self.end(line, "committed")

    def closed(self, line: Line, act: Callable[[], Any]) -> bool:
        """What joins works for a branch that was stopped, but not for one that has ended, nor into one that has."""
        refusal: type[Exception] | None = BranchClosed if line.status != "open" else None
        if refusal is None and line.parent is None:
            refusal = WrongState
        if refusal is None and line.parent is not None:
            refusal = line.parent.refusal
        return self.refused(refusal, act)

    @rule(
        which=st.integers(0, 30),
        resolve=st.booleans(),
        reads=st.sampled_from([None, None, ("**",), ("/work/a", "/work/d/**"), ()]),
    )
    def merge(self, which: int, resolve: bool, reads: tuple[str, ...] | None) -> None:
        line = self.pick(which)
        if reads is None:
            act = lambda: line.branch.merge((lambda _: THEIRS) if resolve else None)  # noqa: E731
        else:
            resolve = False
            act = lambda: line.branch.commit(onto="validated", reads=reads)  # noqa: E731
        if self.closed(line, act):
            return
        parent = line.parent
        assert parent is not None
        self.seal(parent)
        self.seal(line)
        if reads is not None:
            changed: set[str] = set()
            for name, each in parent.now.items():
                before = line.base[name].files if name in line.base else {}
                changed |= differing(before, each.files)
            read = {
                name for name in changed if reads == ("**",) or (reads and (name == "a" or name[:2] == "d/"))
            }
            if self.refused(ReadsChanged if read else None, act):
                return
        joined, fresh, conflicts = self.joined(line, take_theirs=resolve)
        if conflicts:
            with pytest.raises(MergeConflict) as raised:
                act()
            found = {
                os.fsdecode(conflict.path).removeprefix("work/") or conflict.instance
                for conflict in raised.value.conflicts
            }
            assert found == conflicts
            return
        done = act()
        assert not done.fast_forward
        parent.head, parent.maker = next(self.numbers), parent
        parent.log += line.log[line.base_length :]
        self.took(line, joined, fresh)
        self.end(line, "committed")

    def joined(self, line: Line, *, take_theirs: bool) -> tuple[World, set[str], set[str]]:
        """Returns what a merge makes of parent and branch, which instances are fresh in it, and what conflicts."""
        parent = line.parent
        assert parent is not None
        world: World = {}
        fresh: set[str] = set()
        conflicts: set[str] = set()
        for name in parent.now.keys() | line.now.keys():
            was, one, two = line.base.get(name), parent.now.get(name), line.now.get(name)
            if one is None or two is None:
                kept = one or two
                assert kept is not None
                if was is not None and kept.stamp == was.stamp:
                    continue
                if was is not None and not take_theirs:
                    conflicts.add(name)
                if was is not None and two is None:
                    continue
                world[name] = kept.copied()
                if one is None and line.stopped:
                    fresh.add(name)
            elif (was is not None and two.stamp == was.stamp) or one.stamp == two.stamp:
                world[name] = one.copied()
                if one.stamp == two.stamp and not line.stopped:
                    world[name].values = dict(two.values)
            elif was is not None and one.stamp == was.stamp:
                world[name] = two.copied()
                if line.stopped:
                    fresh.add(name)
            else:
                base = was.files if was is not None else {}
                made = one.copied()
                for file in differing(one.files, two.files):
                    if one.files.get(file) != base.get(file) != two.files.get(file) and not take_theirs:
                        conflicts.add(file)
                    elif two.files.get(file) == base.get(file):
                        continue
                    elif file in two.files:
                        made.files[file] = two.files[file]
                    else:
                        made.files.pop(file, None)
                made.stamp = next(self.numbers)
                fresh.add(name)
                world[name] = made
        return world, fresh, conflicts

    @rule(which=st.integers(0, 30))
    def abort(self, which: int) -> None:
        line = self.pick(which)
        if line.parent is None and sum(each.runs for each in self.lines) > 1:
            return  # not so soon
        line.branch.abort()
        if line.status != "open":
            return
        ending = [line]
        while ending:
            one = ending.pop()
            if one.status == "open":
                one.status = "aborted"
            ending += one.children
        if not any(each.runs for each in self.lines):
            self.begin(1, True)

    @rule(which=st.integers(0, 30))
    def snapshot(self, which: int) -> None:
        line = self.pick(which)
        label = f"mark-{next(self.numbers)}-{self.place.name}"
        act = lambda: line.branch.snapshot(label)  # noqa: E731
        if self.refused(line.refusal, act):
            return
        act()
        self.seal(line)
        self.marks.append((label, line.maker, copy.deepcopy(line.now), list(line.log), line.head))

    @precondition(lambda self: self.marks and sum(line.runs for line in self.lines) < 8)
    @rule(which=st.integers(0, 30))
    def checkout(self, which: int) -> None:
        """A branch of whichever is open of the one that the snapshot was made in, and of those above it."""
        label, origin, world, log, head = self.marks[which % len(self.marks)]
        branch = kibo.checkout(label, Values())
        parent: Line | None = origin
        while parent is not None and parent.status != "open":
            parent = parent.parent
        made = {name: each.copied(live=False, start=True) for name, each in world.items()}
        line = Line(branch, parent, made, head)
        line.maker, line.log, line.base_length = origin, log, len(log)
        self.lines.append(line)
        if parent is not None:
            parent.children.append(line)

    # -- what must hold

    @rule(which=st.integers(0, 30))
    def diff(self, which: int) -> None:
        line = self.pick(which)
        found = {
            (change.instance, change.path.removeprefix("/work/"), change.kind)
            for change in line.branch.diff()
            if not change.path.endswith("/")
        }
        expected = set()
        for name, each in line.now.items():
            for file in differing(each.start, each.files):
                kinds = (file in each.start, file in each.files)
                kind = {(False, True): "added", (True, False): "removed", (True, True): "changed"}[kinds]
                expected.add((name, file, kind))
        assert found == expected

    @invariant()
    def every_branch_is_what_the_model_says(self) -> None:
        for line in self.lines:
            assert line.branch.status == line.shown
            assert [int(each.text) for each in line.branch.context.entries(10_000)] == line.told()
            if not line.runs:
                continue
            assert line.branch.instances.keys() == line.now.keys()
            for name, each in line.now.items():
                instance = line.branch[name]
                assert instance.seen() == each.files
                assert {key: instance.get(key) for key in VALUES} == {
                    key: each.values.get(key) for key in VALUES
                }


@pytest.fixture(scope="module", autouse=True)
def _runtime() -> Iterator[None]:
    """A runtime for these tests, with a state directory of its own."""
    with own_runtime():
        yield


class TestBranches(Branches.TestCase):
    """A few seconds of it, of other histories each time."""

    settings = settings(
        max_examples=int(os.environ.get("KIBO_EXAMPLES", "5")),
        stateful_step_count=15,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
class TestBranchesForLong(Branches.TestCase):
    """The same with longer histories and more of them."""

    settings = settings(max_examples=500, stateful_step_count=40, suppress_health_check=list(HealthCheck))
