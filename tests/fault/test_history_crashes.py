"""A process is killed at every named point of every step; after it, the step has happened entirely or not at all."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import pytest

import databases
from crash_points import history_points
from forked import forked
from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.branch.records import World
from kibo.branch.rows import Flushing
from kibo.store.database import Store

#: A message from outside, and one from inside of a box.
TOLD = [
    ("hub.sent", {"id": name, "sender": "a", "to": [["b", ""]], "inside": inside})
    for name, inside in (("msg_1", False), ("msg_2", True))
]

#: Every step with the statement that takes it; `one` and `two` are forks of `main`, each with an entry.
STEPS = {
    "migrate": "Store.open(new)",
    "create": "history.create(world={'deltas': ['new']})",
    "append": "history.log.extend(two, [('note', b'x'), ('note', b'y')])",
    "claim": "history.claim(two)",
    "rewind": f"history.log.extend(two, {TOLD}); history.rewind(two)",
    "fork": "history.fork(two, 3, world={'deltas': ['forked']})",
    "checkout": "history.at(first)",
    "snapshot": "history.snapshot(two, {'deltas': ['turn']}, 'label')",
    "label": "history.label(first, 'label')",
    "pin": "history.pin(first, 'test')",
    "commit": "history.commit(two, {'deltas': ['won']})",
    "overwrite": "history.snapshot(main, {'moved': 1}); history.commit(two, {'deltas': ['won']}, overwrite=True)",
    "merge": "history.record_merge(two, {'deltas': ['m']}, (history.get(main).head, history.get(two).head))",
    "abort": "history.fork(two, 2); history.abort(two)",
    "finish": "history.finish(main)",
    "flush": "history.mark_flushed(first)",
    "recover": "history.recover()",
    "import": "history.import_snapshot(list(history.export(first)))",
    "collect": "history.log.append(one, 'note', b'late'); history.abort(one); collect()",
}


def take(arguments: tuple[str, ...], step: str) -> None:
    """Takes a step, after a boot of the machine."""
    url, main, one, two, first, new = arguments
    history = History(Store.open(url), Flushing("here", "boot-2"))

    def names(world: World) -> Sequence[str]:
        return world.get("deltas", ())

    def collect() -> None:
        done = history.collect(Retention(closed_s=0), names=names)
        history.released(done.resources)

    exec(step, {**globals(), **locals()})


def test_every_point_belongs_to_a_step_that_is_tried():
    assert {point.partition(".")[0] for point in history_points()} == set(STEPS)


def prepared(server: str) -> tuple[str, ...]:
    url = databases.new_database(server)
    store = Store.open(url)
    history = History(store, Flushing("here", "boot-1"))
    main = history.create(world={"deltas": ["base"]})
    history.log.append(main.id, "note", b"base")
    first = history.snapshot(main.id, {"deltas": ["base", "first"]})
    one, two = history.fork(main.id, 2)
    history.log.append(one.id, "note", b"one")
    history.snapshot(one.id, {"deltas": ["one"]}, flushed=False)
    history.log.append(two.id, "note", b"two")
    store.close()
    return url, main.id, one.id, two.id, first.id, databases.new_database(server)


def everything(url: str) -> dict[str, object]:
    """All that can be seen of a store, with new ids and times left out."""
    history = History(Store.open(url))
    seen: dict[str, object] = {}
    for number, root in enumerate(history.roots()):
        for branch in history.tree(root.id):
            key = f"{number}/{branch.name}/{branch.parent}/{len(seen)}"
            entries = [(e.seq, e.kind, e.body, e.origin) for e in history.log.read(branch.id)]
            worlds = [(s.kind, s.state, str(s.world), s.seq, s.labels) for s in history.snapshots(branch.id)]
            seen[key] = (branch.status, branch.epoch, branch.unsealed, entries, worlds)
    seen["positions"] = len(history.log.everything())
    seen["reachable"] = sorted(str(world) for _, world in history.reachable())
    history.store.close()
    return seen


def run(arguments: tuple[str, ...], step: str, crash_at: str = "") -> int:
    done = forked(take, arguments, step, crash_at=crash_at)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(
    scope="module",
    params=["sqlite", *(pytest.param(kind, marks=pytest.mark.soak) for kind in databases.KINDS[1:])],
)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with databases.server(request.param) as url:
        yield url


@pytest.mark.parametrize("point", history_points())
def test_a_step_killed_at_any_point_has_happened_entirely_or_not_at_all(point, server):
    step = STEPS[point.partition(".")[0]]
    *setting_up, last = step.split("; ")
    arguments = prepared(server)
    if setting_up:
        assert run(arguments, "; ".join(setting_up)) == 0
    before = everything(arguments[0])
    assert run(arguments, last, crash_at=point) == -signal.SIGKILL, "the point was not passed"
    after_crash = everything(arguments[0])
    if point.startswith("collect."):  # many transactions: what is left is whole, and the next call goes on
        with Store.open(arguments[0]) as store:
            assert {"base", "two"} <= {e.body.decode() for e in History(store).log.read(arguments[3])}
    else:
        assert after_crash == before
    assert run(arguments, last) == 0
    done = everything(arguments[0])
    if point.startswith("migrate."):
        assert History(Store.open(arguments[5])).roots() == []
    if point.startswith("collect."):
        assert done["positions"] == 2
        history = History(Store.open(arguments[0]))
        assert history.collect(Retention(closed_s=0), names=lambda world: world["deltas"]).resources == ()
