"""Whole branches, killed in whatever they do at any named place, have done it entirely or not at all.

A program with real instances is killed, each time at another of the points that it was seen to pass; then the history
is opened again, as whoever comes next would, and looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leftovers
from crash_points import branch_points
from kibo.branch.hostdir.frozen import PLACE, indexed, layers_of
from kibo.branch.worlds import names
from kibo.runtime.layers import temporary
from kibo.runtime.trees.stack import Node
from kibo.wiring.records import Records
from own_runtimes import link_layers, new_home

PROGRAM = Path(__file__).with_name("branch_user.py")
STEPS = """
    spawn fork busy_fork deep_fork shared_fork shared_commit seal commit merge merge_standing overwrite abort
    apply open close checkout end
""".split()
#: Those that pass the points of others with other files.
LONG = ["shared_merge"]
#: Steps of the process and of its files alone; what `open` does, who looks does too.
UNSEEN = {"spawn", "end", "open"}
WITHIN_S = 10.0
#: Where a tree is something else than before.
OF_TREES = (
    "tree.noted",
    "create.before_commit",
    "spawn.made",
    "fork.recorded",
    "commit.recorded",
    "seal.recorded",
)
#: The points that steps were seen to pass.
PASSED: dict[str, set[str]] = {}


class Home:
    """A state directory, a directory of the host, and the programs that are killed there."""

    def __init__(self, built: Path, place: Path, starter: subprocess.Popen[str]) -> None:
        self._built, self._place, self._starter = built, place, starter
        # Named at random: mounts are told by it, and others have theirs below their homes.
        self.path, self.host = place / f"of-{place.name}", place / "host"
        self.pid = 0
        # The tests before these may have left a runtime of this process's own.
        self._others = set(leftovers.descendants(os.getpid()))
        link_layers(built, self.path)

    def renew(self) -> None:
        """Begins anew, with the layers of environments alone."""
        shutil.rmtree(self.host, ignore_errors=True)
        for path in self.path.iterdir():
            if path.name in ("workspaces", "history.db-wal", "history.db-shm"):
                temporary.remove_tree(path)
            elif path.name in ("deltas", "run", "tmp"):
                for below in path.iterdir():
                    temporary.remove_tree(below)
        for name in ("history.db", "history.db.lock"):
            shutil.copy(self._built / name, self.path)
        self.host.mkdir(parents=True)
        for name in ("a", "b", "kept", "tool"):
            (self.host / name).write_text(f"{name} of the host")

    def run(self, step: str, where: str) -> list[str]:
        """Runs the program until it is killed. Returns the points that it told of."""
        told = self._place / "told"
        order = {
            "step": step,
            "where": where,
            "home": str(self.path),
            "host": str(self.host),
            "told": str(told),
        }
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        print(json.dumps(order), file=self._starter.stdin, flush=True)
        self.pid, status = json.loads(self._starter.stdout.readline())
        text = told.read_text()
        assert status == -signal.SIGKILL, f"{step} at {where}: {status} {text}"
        found: list[str] = json.loads(text.splitlines()[-1]) if where == "record" else []
        return found

    def leftovers(self) -> dict[str, object]:
        """What is there of the program that was killed last."""
        left = leftovers.await_clean(self.path, self.pid, self._others, WITHIN_S)
        leftovers.reap_adopted(self._others)
        return left


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """A state directory with the layers of the boxes and an empty history."""
    path = new_home("kibo-crashes-")
    body = "import kibo; from value_boxes import Values; Values().spawn().destroy(); kibo.wiring.runtime().records()"
    subprocess.run(
        [sys.executable, "-c", body], env={**environment(), "KIBO_HOME": str(path)}, check=True, timeout=60
    )
    yield path
    shutil.rmtree(path)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="module")
def starter() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, PROGRAM], env=environment(), stdin=pipe, stdout=pipe, text=True
    ) as made:
        yield made


@pytest.fixture
def home(built: Path, starter: subprocess.Popen[str]) -> Iterator[Home]:
    place = Path(tempfile.mkdtemp(prefix="kibo-crash-"))
    with leftovers.adopt_orphans():
        yield Home(built, place, starter)
    shutil.rmtree(place)


def tree_of(records: Records) -> dict[str, Any]:
    """All branches with what they are: by name, since ids are new each time."""
    found: dict[str, Any] = {}
    history, points = records.history, records.standing()
    for root in history.roots():
        known = {branch.id: branch for branch in history.tree(root.id)}
        for branch in known.values():
            snapshot = points.point(branch.id)
            parent = known[branch.parent].name if branch.parent in known else branch.parent
            world = points._points.world(snapshot)
            files = {name: files_of(records, each) for name, each in world.items()}
            assert branch.name not in found
            found[branch.name] = (branch.status, parent, sorted(snapshot.labels), files)
    return found


def files_of(records: Records, world: Any) -> dict[str, str]:
    with records.deltas.root(world) as stack:
        work = stack.find(PLACE.encode()) if world.layers else stack.root  # what is shared lies over nothing
        return dict(_files(work)) if work is not None else {}


def _files(directory: Node) -> Iterator[tuple[str, str]]:
    for node in directory.children():
        path = os.fsdecode(node.path)
        if node.kind == "directory":
            yield path, "directory"
            yield from _files(node)
        else:
            yield path, f"{node.mode:o} {Path(os.fsdecode(node.place())).read_text()}"


def listing(host: Path) -> dict[str, str]:
    found = {}
    for path in sorted(host.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        found[str(path.relative_to(host))] = f"{mode:o} {path.read_text() if path.is_file() else 'directory'}"
    return found


def look(home: Home, where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Opens the history as whoever comes next, and checks that nothing is left.

    Returns:
        What the branches are, and what the host has.
    """
    records = Records(home.path)
    try:
        assert unnamed(records, home.path) == {"layers": set(), "frozen": set()}, where
        assert not [*home.path.glob("deltas/*/w"), *home.path.glob("deltas/*/usr-w")], where
        found = tree_of(records), listing(home.host)
    finally:
        records.close()
    temporary.sweep(home.path)
    left = home.leftovers()
    assert left == {}, f"{where}: {left}"
    return found


def unnamed(records: Records, home: Path) -> dict[str, set[str]]:
    """What lies on disk and nothing names."""
    named = {name for _, world in records.history.worlds() for name in names(world)}
    named |= {name for _, name, _ in indexed(home)}
    freezes = home / "workspaces/frozen"
    here = set(os.listdir(freezes))
    named |= {layer for name in here & named for layer in layers_of(freezes / name)}
    return {"layers": set(os.listdir(home / "deltas")) - named, "frozen": here - named}


class Step:
    """One step, to be killed at this point and that."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self.passed = self._run("record")
        assert self.passed, "it passes no point"
        PASSED[name] = set(self.passed)
        look(home, "record")
        self.before, self.after = self.killed("begin"), self.killed("end")

    def _run(self, where: str) -> list[str]:
        self.home.renew()
        if self.name == "open":
            self.home.run("apply", "apply.step:2")
        return self.home.run(self.name, where)

    def killed(self, where: str) -> Any:
        """Returns what is found after it was killed there."""
        self._run(where)
        return look(self.home, where)

    def places(self, *, every: bool) -> Iterator[str]:
        """The passages to end at, in the order in which they come: the first of each point, or all."""
        counts: dict[str, int] = {}
        for name in self.passed:
            counts[name] = counts.get(name, 0) + 1
            if every or counts[name] == 1:
                yield f"{name}:{counts[name]}"


def happens_or_not(step: Step, *, every: bool) -> None:
    happened = step.before == step.after
    for where in step.places(every=every):
        seen = step.killed(where)
        assert seen in (step.before, step.after), f"killed at {where}, it has half happened"
        assert seen == step.after or not happened, f"killed at {where} it has not happened, and before it had"
        happened = seen == step.after


def goes_on(step: Step, *, every: bool) -> None:
    """Of a step that is many transactions: what lives is untouched, and who does it again comes to its end."""
    for where in step.places(every=every):
        seen = step.killed(where)
        assert (seen[0]["main"], seen[1]) == (step.before[0]["main"], step.before[1]), where
        records = Records(step.home.path)
        records.standing().collect(0.0, 0.0)
        records.close()
        assert look(step.home, where) == step.after, where


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", STEPS)
def test_killed_at_any_point_it_has_happened_entirely_or_not_at_all(home: Home, name: str) -> None:
    step = Step(home, name)
    assert (step.before != step.after) == (name not in UNSEEN)
    happens_or_not(step, every=False)


@pytest.mark.timeout(180)
def test_a_collection_killed_at_any_point_is_gone_on_with(home: Home) -> None:
    goes_on(Step(home, "collect"), every=False)


@pytest.mark.timeout(180)
def test_a_tree_that_a_box_has_begun_is_over_and_collected_wherever_it_was_killed(home: Home) -> None:
    step = Step(home, "boxs_tree")
    over_wherever(step, [where for where in step.places(every=False) if where.split(":")[0] in OF_TREES])


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_tree_that_a_box_has_begun_is_over_wherever_it_was_killed_at_any_passage(home: Home) -> None:
    step = Step(home, "boxs_tree")
    over_wherever(step, step.places(every=True))


def over_wherever(step: Step, places: Iterable[str]) -> None:
    """Of a tree that ends with its process: nobody can go on with it, and all of it is collected."""
    begun = False
    for where in places:
        seen, _ = step.killed(where)
        assert seen.pop("main") == step.before[0]["main"], where
        assert {status for status, *_ in seen.values()} <= {"aborted", "committed"}, where
        assert bool(seen) >= begun
        begun = bool(seen)
        records = Records(step.home.path)
        records.standing().collect(0.0, 0.0)
        assert records.history.unflushed() == []  # nothing that was sealed waits for a power cut for ever
        records.close()
        assert look(step.home, where)[0].keys() == {"main"}, where
    assert begun


@pytest.mark.timeout(180)
def test_every_named_point_is_one_that_a_step_is_killed_at(home: Home) -> None:
    for name in {*STEPS, "collect", "boxs_tree"} - PASSED.keys():
        Step(home, name)
    assert branch_points() - set().union(*PASSED.values()) == set()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*STEPS, *LONG])
def test_killed_at_any_passage_it_has_happened_entirely_or_not_at_all(home: Home, name: str) -> None:
    happens_or_not(Step(home, name), every=True)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_collection_killed_at_any_passage_is_gone_on_with(home: Home) -> None:
    goes_on(Step(home, "collect"), every=True)
