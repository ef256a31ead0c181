"""What collecting and sweeping remove of the layers on disk, and what they leave alone."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import kibo
from kibo import wiring
from kibo.branch.hostdir import freeze as freezing
from kibo.branch.hostdir import frozen as frozen_records
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.retention import Collected
from kibo.branch.rows import Flushing
from kibo.model.errors import WrongState
from kibo.runtime.trees.stack import Stack
from kibo.store import crash
from kibo.wiring.records import Records, _owner
from own_runtimes import own_runtime
from value_boxes import Values


@pytest.fixture(scope="module")
def built(home: Path) -> Path:
    """A state directory that has the layers of the boxes here."""
    Values().spawn().destroy()
    return home


@pytest.fixture
def place(built: Path) -> Iterator[Path]:
    """A state directory of its own, in which this process runs its branches."""
    with own_runtime(built):
        yield wiring.runtime().home


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    made = tmp_path / "repo"
    (made / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        (made / name).write_text(name)
    return made


SEEN = {"a": "a", "b": "b", "deep/c": "deep/c"}


def freeze(repo: Path, home: Path, *, flush: bool = True) -> Frozen:
    """Freezes it as a branch does, for files that boxes own."""
    return freezing.freeze(repo, home, owner=_owner(False), flush=flush)


def collect(home: Path, closed_s: float = 0.0, unused_s: float = 0.0, *, dry: bool = False) -> Collected:
    """Collects as another process would that runs no branch."""
    records = Records(home)
    try:
        return records.standing().collect(closed_s, unused_s, dry=dry)
    finally:
        records.close()


def on_disk(home: Path) -> dict[str, set[str]]:
    found = {
        "deltas": home / "deltas",
        "frozen": home / "workspaces/frozen",
        "index": home / "workspaces/index",
        "tmp": home / "tmp",
    }
    return {kind: set(os.listdir(where)) if where.is_dir() else set() for kind, where in found.items()}


NOTHING: dict[str, set[str]] = {"deltas": set(), "frozen": set(), "index": set(), "tmp": set()}


def passing(name: str, what: Callable[[], object]) -> list[object]:
    """Has something done each time that a named point is passed, besides by what is done there itself."""
    came: list[object] = []

    def hook(passed: str) -> None:
        if passed.startswith(name):
            crash.install(None)
            came.append(what())
            crash.install(hook)

    crash.install(hook)
    return came


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    crash.install(None)


def shown(frozen: Frozen) -> dict[str, str]:
    with Stack(list(frozen.layers)) as stack:
        return {
            os.fsdecode(node.path): Path(os.fsdecode(node.place())).read_text() for node in _files(stack, b"")
        }


def _files(stack: Stack, path: bytes):  # type: ignore[no-untyped-def]
    node = stack.find(path) if path else stack.root
    for child in node.children():
        if child.kind == "directory":
            yield from _files(stack, child.path)
        else:
            yield child


# -- what is in use


def test_what_a_branch_lies_on_that_has_sealed_nothing_is_not_collected(place: Path, repo: Path) -> None:
    with kibo.branch() as before:
        assert before.spawn(Values(), workspace=repo).seen() == SEEN
        before.snapshot("named")
    wiring.runtime().records().history.unlabel(before.id, "named")
    with kibo.branch() as main:
        box = main.spawn(Values(), workspace=repo)
        done = collect(place)
        assert before.id in done.branches
        assert done.snapshots >= 2
        assert box.seen() == SEEN
        assert main.fork(1)[0][box].seen() == SEEN
        collect(place)
        box.put("a", 1)
        assert main.apply()["Values"].replaced == (b"a",)


def test_what_is_collected_while_a_workspace_is_frozen_is_none_of_its_layers(place: Path, repo: Path) -> None:
    with kibo.branch() as before:
        before.spawn(Values(), workspace=repo)
    (repo / "a").write_text("A")
    came = passing("freeze.", lambda: collect(place))
    with kibo.branch() as main:
        box = main.spawn(Values(), workspace=repo)
        assert len(came) >= 5
        assert box.seen() == {**SEEN, "a": "A"}
        collect(place)
        assert box.seen() == {**SEEN, "a": "A"}


def test_a_freeze_that_is_being_collected_is_none_to_begin_from(place: Path, repo: Path) -> None:
    freeze(repo, place).hold.release()  # type: ignore[union-attr]
    made: list[Frozen] = []
    passing("sweep.before_moving", lambda: made.append(freeze(repo, place)))
    collect(place)
    assert made[0].copied == len(SEEN), "it begins anew"
    assert shown(made[0]) == SEEN
    assert on_disk(place)["frozen"] == {made[0].id}


# -- what nothing needs


def test_a_workspace_that_nothing_names_any_more_goes_with_its_layers(place: Path, repo: Path) -> None:
    for content in ("1", "2", "3"):
        (repo / "a").write_text(content)
        with kibo.branch() as main:
            main.spawn(Values(), workspace=repo).put("b", content)
    assert collect(place, closed_s=1e6).resources == ()
    kept = on_disk(place)
    foreseen = collect(place, unused_s=1e6, dry=True)
    assert on_disk(place) == kept
    done = collect(place, unused_s=1e6)
    assert done.resources == foreseen.resources
    newest = on_disk(place)
    assert len(newest["frozen"]) == len(newest["index"]) == 1, "the next freeze begins from it"
    began = freeze(repo, place)
    assert {began.deltas[0]} <= newest["deltas"]
    began.hold.release()  # type: ignore[union-attr]
    foreseen = collect(place, dry=True)
    assert on_disk(place)["frozen"] > newest["frozen"]
    assert set(foreseen.resources) == on_disk(place)["frozen"] | on_disk(place)["deltas"]
    assert collect(place).resources == foreseen.resources
    assert on_disk(place) == NOTHING


def test_layers_that_a_snapshot_shares_with_a_workspace_that_goes_stay(place: Path, repo: Path) -> None:
    with kibo.branch() as main:
        main.spawn(Values(), workspace=repo)
    (repo / "a").write_text("A")
    freeze(repo, place)
    collect(place, closed_s=1e6)
    assert len(on_disk(place)["frozen"]) == 1
    with kibo.checkout(main.id, Values()) as again:
        assert again["Values"].seen() == SEEN


def test_a_freeze_that_fails_leaves_nothing(place: Path, repo: Path) -> None:
    freeze(repo, place)
    before = on_disk(place)
    (repo / "a").write_text("A")

    def fail() -> None:
        raise OSError("the disk")

    for point in ("freeze.scanned", "freeze.recorded", "freeze.layered"):
        passing(point, fail)
        with pytest.raises(OSError, match="the disk"):
            freeze(repo, place)
        crash.install(None)
        assert on_disk(place) == before


def test_many_freezes_of_one_directory_keep_no_layer_that_none_of_them_names(place: Path, repo: Path) -> None:
    for number in range(30):
        (repo / f"new{number}").write_text("new")
        frozen = freeze(repo, place)
    collect(place, unused_s=1e6)
    assert on_disk(place)["frozen"] == {frozen.id}
    assert on_disk(place)["deltas"] == set(frozen.deltas)
    assert len(shown(frozen)) == len(SEEN) + 30


# -- after a power cut


def test_after_a_power_cut_nothing_begins_from_a_freeze_that_was_not_flushed(
    place: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = freeze(repo, place)
    torn = freeze(repo, place, flush=False)
    assert torn.deltas[0] == flushed.deltas[0], "in the same boot nothing is lost"
    (torn.layers[-1] / "a").write_text("")
    another_boot(monkeypatch)
    after = freeze(repo, place)
    assert shown(after) == SEEN
    assert not set(after.deltas) & set(torn.deltas)
    monkeypatch.undo()
    assert freeze(repo, place).deltas[0] == after.deltas[0], "what was flushed is good in every boot"


def another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (freezing, frozen_records):
        monkeypatch.setattr(module, "this_boot", lambda: Flushing("here", "another boot"))


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"boot": 1}'])
def test_after_a_power_cut_a_torn_record_is_none(place: Path, repo: Path, torn: str) -> None:
    lost = freeze(repo, place, flush=False)
    (lost.directory / "frozen.json").write_text(torn)
    assert shown(freeze(repo, place)) == SEEN
    (place / "workspaces/index").joinpath(os.listdir(place / "workspaces/index")[0]).write_text(torn)
    assert shown(freeze(repo, place)) == SEEN
    lost.hold.release()  # type: ignore[union-attr]
    collect(place)
    assert on_disk(place) == NOTHING


def test_a_workspace_is_noted_as_flushed_once_it_is(
    place: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kibo.branch() as main:
        main.spawn(Values(), workspace=repo)
        wiring.runtime().records().flusher.flush()
        known = on_disk(place)["deltas"]
        another_boot(monkeypatch)
        assert {freeze(repo, place).deltas[0]} <= known


# -- a history that is damaged

DAMAGED = {
    "of another version": '{"instances":{"Values":{"box":"b","label":"Values","layers":[],"deltas":[],"new":1}}}',
    "without a list": '{"instances":{"Values":{"box":"b","label":"Values","layers":[],"deltas":"delta_1"}}}',
    "no instances": '{"instances":[1]}',
    "no object": "[]",
    "torn": '{"instances":{"Val',
}


@pytest.mark.parametrize("world", DAMAGED.values(), ids=DAMAGED)
def test_one_world_that_cannot_be_read_stops_nobody_who_does_not_need_it(
    place: Path, repo: Path, world: str, caplog: pytest.LogCaptureFixture
) -> None:
    with kibo.branch() as good:
        good.spawn(Values(), workspace=repo)
    with kibo.branch() as bad:
        bad.spawn(Values()).put("x", 1)
    records = wiring.runtime().records()
    head = records.history.get(bad.id).head
    wiring.runtime().close()
    with closing(sqlite3.connect(place / "history.db", isolation_level=None)) as connection:
        connection.execute("UPDATE snapshots SET world=? WHERE id=?", (world, head))
    killed(place, "kibo.branch().spawn(Values()).put('x', 1)")
    before = on_disk(place)

    with caplog.at_level(logging.WARNING), kibo.checkout(good.id, Values()) as again:
        assert again["Values"].seen() == SEEN
    assert head in caplog.text
    with pytest.raises(WrongState, match=head):
        kibo.checkout(bad.id, Values())
    standing = wiring.runtime().records().standing()
    with pytest.raises(WrongState, match=head):
        list(standing.diff(bad.id))
    assert collect(place, closed_s=1e6).resources == ()
    assert before["deltas"] <= on_disk(place)["deltas"], "nobody can tell what it names"
    assert standing.layers() == {path.name for path in (place / "layers").iterdir()}
    wiring.runtime().close()
    # Once its branch is gone, so is what stood in the way.
    collect(place)
    assert on_disk(place) == NOTHING


def killed(home: Path, body: str) -> None:
    """Runs a program that ends as by `kill -9`."""
    program = (
        f"import os, kibo\nfrom value_boxes import Values\n{textwrap.dedent(body)}\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KIBO_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -9, done.stderr


# -- an apply that was cut short


def test_an_apply_that_was_cut_short_is_ended_by_whoever_opens_the_history(place: Path, repo: Path) -> None:
    body = f"""
        from kibo.store import crash
        with kibo.branch() as main:
            box = main.spawn(Values(), workspace={str(repo)!r})
            box.put("a", 1)
            box.put("b", 2)
            crash.install(lambda point: os.kill(os.getpid(), 9) if point == "apply.step" else None)
            main.apply()
    """
    killed(place, body)
    assert [(repo / name).read_text() for name in "ab"] == ["1", "b"], "half of it"
    Records(place).close()
    assert [(repo / name).read_text() for name in "ab"] == ["1", "2"]
    assert os.listdir(place / "workspaces/applies") == []
    assert sorted(os.listdir(repo)) == ["a", "b", "deep"]


def test_an_apply_that_is_under_way_is_left_to_who_does_it(place: Path, repo: Path) -> None:
    with kibo.branch() as main:
        box = main.spawn(Values(), workspace=repo)
        box.put("a", 1)
        box.put("b", 2)
        came = passing("apply.", lambda: Records(place).close())
        main.apply()
        assert len(came) > 5
    assert [(repo / name).read_text() for name in "ab"] == ["1", "2"]


def test_an_apply_to_a_directory_that_is_gone_stops_nobody(place: Path, repo: Path) -> None:
    body = f"""
        from kibo.store import crash
        with kibo.branch() as main:
            main.spawn(Values(), workspace={str(repo)!r}).put("a", 1)
            crash.install(lambda point: os.kill(os.getpid(), 9) if point == "apply.committed" else None)
            main.apply()
    """
    killed(place, body)
    shutil.move(repo, aside := repo.with_name("aside"))
    Records(place).close()
    shutil.move(aside, repo)
    Records(place).close()
    assert (repo / "a").read_text() == "1"


def test_records_are_json_that_says_when_they_were_made(place: Path, repo: Path) -> None:
    frozen = freeze(repo, place)
    note = json.loads((frozen.directory / "frozen.json").read_text())
    assert note["boot"]
    assert Frozen.load(place, frozen.id) == frozen
