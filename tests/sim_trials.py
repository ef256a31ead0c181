"""One seed of the simulation: what is submitted, what goes wrong, and what must hold of it afterwards.

``python -m sim_trials SEED [NODES RUNS [SEEDS]]`` in `tests`, with `src` on the path, does one and says what happened,
or as many as are asked for, on all processors.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sqlalchemy import select

import databases
from kibo.model import ids
from kibo.model.errors import KiboError, WrongState
from kibo.model.ids import RunId
from kibo.schedule import lifecycle
from kibo.schedule.encoding import read_request
from kibo.schedule.leases import DISPATCHER, NODE, Leases
from kibo.schedule.placement import Node
from kibo.schedule.policy import Abandon, AskPerson, Compensate, Fork, Policy, Retry
from kibo.schedule.request import Allowance, Rate, Request, Resources
from kibo.schedule.submitting import Submission
from kibo.schedule.survey import Surveyor
from kibo.schedule.tenure import Tenure
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import attempts, budgets, run_changes, run_events, runs
from sim_world import SimDispatcher, SimNode, World

#: What one step of an attempt uses at most; see `sim_world.Attempting`.
STEP = 10
#: For how long it may take until all has ended, once nothing goes wrong any more.
CALM_S = 3000.0

_TIMELINE = Prepared(
    select(run_events.c.run, run_events.c.kind, run_events.c.body).order_by(run_events.c.position)
)
_RUNS = Prepared(
    select(
        runs.c.id, runs.c.state, runs.c.request, runs.c.work, runs.c.result, runs.c.fork, runs.c.parent
    ).order_by(runs.c.position)
)
_PLACED = Prepared(
    select(attempts.c.run, attempts.c.epoch, attempts.c.placed_up, attempts.c.kind, attempts.c.outcome)
)
_BUDGETS = Prepared(select(*budgets.columns))
_CHANGES = Prepared(select(run_changes.c.run))


class Found(NamedTuple):
    """What came of a trial.

    Attributes:
        digest: Of the whole timeline: the same for the same seed.
        states: How many runs ended how.
        told: What happened how often.
        virtual_s: How long it took, there.
    """

    digest: str
    states: dict[str, int]
    told: dict[str, int]
    virtual_s: float


@contextmanager
def seeded_ids(seed: int) -> Iterator[None]:
    """Has ids come from a seed."""
    random, real = Random(seed), ids._random_hex
    ids._random_hex = lambda: f"{random.getrandbits(96):024x}"
    try:
        yield
    finally:
        ids._random_hex = real


class Trial:
    """One seed."""

    def __init__(self, store: Store, seed: int, nodes: int, count: int) -> None:
        self.store = store
        self.count = count
        self.world = World(store, seed)
        self.random = Random(f"trial {seed}")
        self.submission = Submission(store, self.world.moment, self.world.ring)
        self.surveyor = Surveyor(store)
        self.submitted: list[RunId] = []
        self.asked = 0
        self.quiet = False
        for name in ("first", "second"):
            self.world.dispatchers.append(SimDispatcher(self.world, name))
        for n in range(nodes):
            labels = frozenset({("gpu", "yes")}) if n % 4 == 0 else frozenset()
            name = f"n{n}"
            self.world.nodes[name] = SimNode(self.world, name, Resources(4000, 0, 8), labels)

    # -- what is asked for

    def request(self, n: int, batch: list[Request]) -> Request:
        random = self.random
        told: dict[str, Any] = {"work": f"work {n}".encode(), "name": f"name {n}", "policy": self.policy()}
        told["tenant"] = random.choice("aaabbcd")
        told["priority"] = random.choice((0, 0, 0, -3, 5))
        told["resources"] = Resources(random.choice((0, 500, 500, 1000, 4000)))
        if random.random() < 0.1:
            told["labels"] = {"gpu": "yes"}
        if random.random() < 0.2:
            told["limits"] = {f"limit {random.randint(0, 20)}": random.randint(2, 6)}
        if random.random() < 0.15:
            told["rates"] = {
                f"rate {random.randint(0, 20)}": Rate(random.randint(2, 20), random.choice((1.0, 5.0, 20.0)))
            }
        others = [each.name for each in batch] + self.submitted[-200:]
        if others and random.random() < 0.1:
            told["after"] = tuple(dict.fromkeys(random.choices(others, k=random.randint(1, 3))))
        if random.random() < 0.05:
            told["subject"] = f"subject {random.randint(0, 30)}"
            told["double"] = random.choice(("enqueue", "interrupt", "rollback"))
        if self.submitted and random.random() < 0.2:
            told["parent"] = random.choice(self.submitted[-300:])
        elif random.random() < 0.15:
            told["budget"] = Allowance(
                seconds=random.choice((None, None, 60.0)), branches=random.choice((None, 1, 4)),
                tokens=random.choice((None, 15, 60)),
            )  # fmt: skip
        return Request(**told)

    def policy(self) -> Policy:
        random = self.random
        steps = random.choice(
            (
                None, Abandon(), Retry(2, backoff_s=1), Retry(1, backoff_s=0.5) | Fork(2, vary=("other",)) | Abandon(),
                Fork(3) | AskPerson("again?", within_s=5), Compensate() | Retry(1) | Abandon(), Retry(3) | Compensate(),
                AskPerson("again?", within_s=20) | Compensate(), Fork(2, depth=2),
            )
        )  # fmt: skip
        return Policy(
            timeout_s=random.choice((20.0, 60.0)), start_timeout_s=random.choice((3.0, 20.0)),
            queue_timeout_s=random.choice((None, None, None, 30.0)),
            total_timeout_s=random.choice((None, None, 120.0)), on_failure=steps,
        )  # fmt: skip

    def submit(self) -> None:
        """Submits some at once; one by one, where one of them is refused: its parent may have ended meanwhile."""
        batch: list[Request] = []
        for n in range(min(100, self.count - self.asked)):
            batch.append(self.request(self.asked + n, batch))
        self.asked += len(batch)
        if not self._submit(batch):
            for each in batch:
                self._submit([each])
        if self.asked < self.count:
            self.world.at(self.random.uniform(0.0, 1.5), self.submit)

    def _submit(self, batch: list[Request]) -> bool:
        try:
            self.submitted += self.submission.submit_all(batch)
        except KiboError as error:
            self.world.count(f"refused: {error.code}")
            return False
        return True

    def meddle(self) -> None:
        """Cancels one, or answers for one, now and then."""
        run, random = self.random.choice(self.submitted or [RunId("")]), self.random
        if run and not self.quiet:
            if random.random() < 0.5:
                self.world.count("cancelled by hand")
                self.submission.cancel(run, rollback=random.random() < 0.5)
            try:
                self.submission.answer(
                    random.choice(self.submitted), random.choice(("retry", "abandon")), "ada"
                )
                self.world.count("answered")
            except WrongState:
                pass
        if not self.quiet:
            self.world.at(random.uniform(0.1, 2), self.meddle)

    # -- what goes wrong

    def trouble(self) -> None:
        if self.quiet:
            return
        random, world = self.random, self.world
        for _ in range(random.choice((1, 1, 2, 5))):
            node = random.choice(list(world.nodes.values()))
            kind = random.choice(
                ("die", "net", "store", "both", "freeze", "slow", "clock", "kill", "gone", "torn")
            )
            world.count(kind)
            long = random.choice((2.0, 8.0, 20.0, 45.0))
            if kind == "die" and not node.dead:
                node.die()
                world.at(long, node.live)
            elif kind in ("net", "store", "both"):
                self._cut(node, kind, long)
            elif kind == "freeze" and not node.dead and not node.frozen:
                node.freeze()
                world.at(long, node.thaw)
            elif kind == "slow":
                node.slow = random.choice((1.0, 3.0, 10.0))
            elif kind == "clock":
                world.wall_ahead_s += random.choice((-7200.0, -30.0, 40.0, 90000.0))
            elif world.dispatchers:
                self._hurt(random.choice(world.dispatchers), kind, long)
        world.at(random.expovariate(1 / 4), self.trouble)

    def _cut(self, node: SimNode, kind: str, long: float) -> None:
        until = self.world.now_s + long
        if kind != "store":
            node.cut_off = True
            self.world.at(long, lambda: setattr(node, "cut_off", False))
            self.world.at(long, self.world.ring)
        if kind != "net":
            node.store.gone = lambda: self.world.now_s < until

    def _hurt(self, dispatcher: SimDispatcher, kind: str, long: float) -> None:
        if kind == "kill":
            dispatcher.dies_in = self.random.randint(1, 12)
        elif kind == "torn":
            dispatcher.store.torn = 1
        elif kind == "gone":
            until = self.world.now_s + long * 1.5
            dispatcher.store.gone = lambda: self.world.now_s < until

    # -- who looks from outside

    def look(self) -> None:
        """Now and then somebody asks why runs wait, and is told what the dispatcher itself would tell."""
        if self.asked < self.count or self.submission.counts():
            self.world.at(self.random.uniform(0.5, 5), self.look)
        survey = self.surveyor.look(self.world.moment())
        tenure = self.settled()
        if tenure is None:
            return
        now_s = self.world.now_s
        there, (copy, starts) = tenure.queue, survey.decided()
        assert [*survey.runs] == sorted(tenure._open.runs, key=[*survey.runs].index)
        assert not starts, f"{starts} would be started, and were not"
        assert {*copy.items} == {*there.items}
        assert {node.id: said(node) for node in copy.nodes.values()} == {
            node.id: said(node) for node in there.nodes.values()
        }
        for run in there.items:
            told, own = copy.explain(run, now_s), there.explain(run, now_s)
            assert own, f"{run} waits for nothing"
            assert {(each.what, each.about) for each in told} == {(each.what, each.about) for each in own}
            for each in told:
                self.world.count(f"waits: {each.what}")

    def settled(self) -> Tenure | None:
        """Whoever dispatches, if it has heard of all that has happened, and has nothing to do now."""
        leases = {row.name: row.epoch for row in Leases(self.store).all() if row.holder}
        for each in self.world.dispatchers:
            tenure = each.made._tenure
            if tenure is None or tenure._epoch != leases.get(DISPATCHER) or each.due_s <= self.world.now_s:
                continue
            held = {node.id: leases.get(NODE + node.id) == node.epoch for node in tenure.queue.nodes.values()}
            if all(held.values()) and not self.store.read(lambda tx: tx.rows(_CHANGES)):
                return tenure
        return None

    def calm(self) -> None:
        """From here on nothing goes wrong."""
        self.quiet = True
        for node in self.world.nodes.values():
            node.slow = 1.0

    # -- all of it

    def conduct(self) -> Found:
        world = self.world
        self.submit()
        self.meddle()
        self.look()
        world.at(3, self.trouble)
        world.advance(1e9, lambda: self.asked == self.count)
        world.advance(world.now_s + 60.0)
        self.calm()
        calm_s = world.now_s
        while self.submission.counts() and world.now_s < calm_s + CALM_S:
            world.advance(world.now_s + 5)
        left = self.submission.counts()
        assert not left, f"after {CALM_S} s of calm there are still {left}"
        world.advance(world.now_s + 60)  # what is left of attempts ends
        return self.judge()

    def judge(self) -> Found:
        world = self.world
        found, placed, used, rung = self.store.read(
            lambda tx: (tx.rows(_RUNS), tx.rows(_PLACED), tx.rows(_BUDGETS), tx.rows(_CHANGES))
        )
        requests = {row[0]: read_request(row[0], row[2]) for row in found}
        states = {row[0]: row[1] for row in found}
        assert {*self.submitted} <= {*states}
        digest = self.judge_timelines(requests, states)
        self.judge_rates(requests, placed)
        for row in found:
            if row[1] == "done" and row[4] is not None:
                assert row[4] == row[3], f"{row[0]} came to what another was to do"
            if row[5] and states[row[6]] == "done":
                assert row[1] in lifecycle.ENDED
        for budget in used:
            told = (
                budget._mapping
                if hasattr(budget, "_mapping")
                else dict(zip(budgets.columns.keys(), budget, strict=True))
            )
            assert told["reserved_tokens"] == 0, f"{told['id']}: what was reserved is lost"
            if told["tokens"] is not None:
                assert told["used_tokens"] <= told["tokens"] + STEP
            if told["branches"] is not None:
                assert told["used_branches"] <= told["branches"]
        done = Counter(
            row[0]
            for row in placed
            if row[3] == "work" and row[4] == "succeeded" and states[row[0]] == "done"
        )
        assert max(done.values(), default=1) == 1
        assert all(row[4] is not None for row in placed), "an attempt has not ended"
        assert not rung
        assert not world.executing, f"still at work: {world.executing}"
        assert not [node.name for node in world.nodes.values() if node.attempts or node.unheard]
        leader = next(each.made for each in world.dispatchers if each.made.leading)
        tenure = leader._tenure
        assert tenure is not None
        assert not tenure._open.runs
        assert not tenure._open._needed
        assert not tenure._open._forks
        assert not tenure._open._sharing
        assert not tenure.queue.items
        assert not tenure.queue._holding
        assert all(node.free == node.room for node in tenure.queue.nodes.values())
        assert len(tenure.queue.nodes) == len(world.nodes)
        return Found(
            digest,
            dict(sorted(Counter(states.values()).items())),
            dict(sorted(world.told.items())),
            world.now_s,
        )

    def judge_timelines(self, requests: dict[str, Request], states: dict[str, str]) -> str:
        """Each timeline is a walk through the table of states, and no limit is passed by those at work at once."""
        digest = blake2b(digest_size=8)
        state: dict[str, str] = {}
        working: defaultdict[str, set[str]] = defaultdict(set)
        for run, kind, body in self.store.read(lambda tx: tx.rows(_TIMELINE)):
            digest.update(run.encode() + kind.encode() + body)
            before = state.get(run)
            if kind == "submit":
                assert before is None
                state[run] = "waiting" if "after" in json.loads(body) else "queued"
                continue
            assert before is not None
            if kind in ("hold", "commit"):
                continue
            if not (kind == "requeue" and before in lifecycle.UNDOING) and not (
                kind == "begin" and before != "starting"
            ):
                state[run] = lifecycle.after(before, kind)  # type: ignore[arg-type]
            now = state[run]
            if kind == "place" and now == "starting":
                for key, most in requests[run].limits.items():
                    working[key].add(run)
                    at_work = sum(
                        state[each] in ("starting", "running", "stopping", "cancelling")
                        for each in working[key]
                    )
                    assert at_work <= most, f"{key}: {at_work} of {most} are at work"
            elif now in lifecycle.ENDED or now == "queued":
                for key in requests[run].limits:
                    working[key].discard(run)
        assert state == states
        return digest.hexdigest()

    def judge_rates(self, requests: dict[str, Request], placed: list[Any]) -> None:
        """Whenever one was started, no more than its rates say were started in their spans."""
        placed_s = {(row[0], row[1]): row[2] for row in placed if row[3] == "work"}
        started: defaultdict[str, deque[float]] = defaultdict(deque)
        for run, kind, body in self.store.read(
            lambda tx: tx.rows(_TIMELINE)
        ):  # those of one moment in their order
            up_s = placed_s.get((run, json.loads(body)["epoch"])) if kind == "place" else None
            for key, rate in requests[run].rates.items() if up_s is not None else ():
                started[key].append(up_s)
                late = sum(each > up_s - rate.per_s + 1e-6 for each in started[key])
                assert late <= rate.starts, f"{key}: {late} within {rate.per_s} s, and {rate.starts} may be"


def said(node: Node) -> tuple[Any, ...]:
    """What decides about a node."""
    return node.epoch, node.room, node.free, node.labels, node.draining, node.kept, node.runs


def forget_the_disk(store: Store) -> None:
    """Has this thread's transactions stay in memory: nobody else uses the store, and nothing of it is to last."""

    def work(tx: Transaction) -> Any:
        return tx._connection

    connection = store.read(work)
    for each in ("locking_mode=EXCLUSIVE", "journal_mode=MEMORY", "synchronous=OFF", "cache_size=-65536"):
        connection.execute(f"PRAGMA {each}").fetchall()


def trial(seed: int, nodes: int, count: int, directory: Path) -> Found:
    """Does one seed, in a new store in a directory."""
    url = databases.new_store(f"sqlite:///{directory}/")
    with seeded_ids(seed), Store.open(url) as store:
        forget_the_disk(store)
        try:
            return Trial(store, seed, nodes, count).conduct()
        except AssertionError as error:
            error.add_note(f"seed {seed}, {nodes} nodes, {count} runs")
            raise
        finally:
            for each in directory.glob(f"{Path(url).name}*"):
                each.unlink()


def fast_directory() -> TemporaryDirectory[str]:
    """A directory in memory, where there is one: what is written need not outlive anything."""
    shm = Path("/dev/shm")
    return TemporaryDirectory(prefix="kibo-sim-", dir=shm if shm.is_dir() else None)


def told(seed: int, nodes: int, count: int) -> bool:
    """Does one seed, and says what happened. Returns whether all held that must."""
    began = time.perf_counter()
    with fast_directory() as place:
        try:
            found = trial(seed, nodes, count, Path(place))
        except Exception:  # noqa: BLE001 - the other seeds are still worth doing
            print(f"seed {seed}: FAILED\n{traceback.format_exc()}", flush=True)
            return False
    took = f"{time.perf_counter() - began:.1f} s for {found.virtual_s:.0f} s"
    print(f"seed {seed}: {took}\n{found.digest} {found.states}\n{found.told}", flush=True)
    return True


def many(seeds: range, nodes: int, count: int) -> list[bool]:
    """Does several seeds, on all processors."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(told, seeds, repeat(nodes), repeat(count)))


def main() -> int:
    given = [int(each) for each in sys.argv[1:]]
    seed, nodes, count, seeds = (*given, *(100, 10_000, 1)[len(given) - 1 :])
    began = time.perf_counter()
    done = many(range(seed, seed + seeds), nodes, count)
    rate = len(done) / (time.perf_counter() - began) * 3600
    print(f"{len(done)} seeds, {rate:.0f} an hour; {done.count(False)} failed")
    return int(False in done)


if __name__ == "__main__":
    sys.exit(main())
