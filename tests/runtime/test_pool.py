"""Warm pools for plain programs: who gets a ready instance, who waits, and what is left when one is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import kibo
from kibo import Box, action
from kibo.model import errors
from kibo.runtime.pool import Pool
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime
from patience import until


class Worker(Box):
    """Counts its own calls."""

    calls = 0

    @action
    def count(self) -> int:
        """Count a call."""
        self.calls += 1
        return self.calls

    @action
    def leave(self) -> None:
        """End its own process."""
        import os

        os._exit(3)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with kibo.pool(Worker(), min=1, max=3) as opened:
        yield opened


def living() -> set[str]:
    answer, _ = run(runtime().states().session.ask(Blocking(), "list", {}))
    return {cell["id"] for cell in answer["cells"] if cell["id"].startswith("inst_")}


def test_a_pool_is_full_when_it_is_opened_and_each_spawn_is_a_hit_and_unused(pool: Pool) -> None:
    assert len(pool) == 3
    ready = living()
    with Worker().spawn() as one, Worker().spawn() as other:
        assert {one.id, other.id} <= ready
        assert one.id != other.id
        assert [one.count(), one.count(), other.count()] == [1, 2, 1]
    assert (pool.hits, pool.misses) == (2, 0)


def test_what_spawns_found_is_counted_and_stays_so_once_the_pool_is_closed(pool: Pool) -> None:
    before = runtime().pooled()
    states = runtime().states()
    hits, (forks, _) = states.hits, states.forks()
    with Worker().spawn():
        pass
    pool.close()
    assert runtime().pooled() == (before[0] + 1, before[1])
    with Worker().spawn() as one, Worker().spawn() as other:
        assert one.count() == other.count() == 1
    assert runtime().pooled() == (before[0] + 1, before[1])
    assert states.hits >= hits + 2
    made, ahead = states.forks()
    assert made >= forks + 2
    assert 0 <= ahead <= made


def test_a_pool_is_refilled_to_its_most_once_it_falls_below_its_least(pool: Pool) -> None:
    taken = [Worker().spawn(), Worker().spawn()]
    assert len(pool) == 1
    taken.append(Worker().spawn())  # below the least now
    until(lambda: len(pool) == 3)
    assert (pool.hits, pool.misses) == (3, 0)
    for box in taken:
        assert box.count() == 1
        box.destroy()
    until(lambda: len(living()) == 3)


def test_an_empty_pool_makes_one_for_who_asks_and_counts_a_miss() -> None:
    with kibo.pool(Worker(), min=1, max=1) as pool:
        gate, make = threading.Event(), pool._make

        def slow() -> Any:
            if threading.current_thread().name == "kibo-pool":
                gate.wait(30)
            return make()

        pool._make = slow
        with Worker().spawn() as hit, Worker().spawn() as miss:
            assert [hit.count(), miss.count()] == [1, 1]
            assert (pool.hits, pool.misses) == (1, 1)
        gate.set()
        until(lambda: len(pool) == 1)


def test_an_instance_that_ended_while_it_waited_is_not_handed_out(pool: Pool) -> None:
    session = runtime().states().session
    waiting = [instance.id for instance in pool._ready]
    for identity in waiting[:2]:
        run(session.ask(Blocking(), "destroy", {"id": identity}))
    with Worker().spawn() as box:
        assert box.id == waiting[2]
        assert box.count() == 1
    assert (pool.hits, pool.misses) == (1, 0)
    until(lambda: len(pool) == 3)


def test_a_used_instance_never_comes_back(pool: Pool) -> None:
    with Worker().spawn() as box:
        used = box.id
        with pytest.raises(errors.KiboError):
            box.leave()
    seen = set()
    for _ in range(8):
        with Worker().spawn() as box:
            assert box.count() == 1
            seen.add(box.id)
    assert used not in seen
    assert len(seen) == 8


def test_threads_that_spawn_at_once_never_share_an_instance(pool: Pool) -> None:
    counts: list[int] = []
    ids: list[str] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                with Worker().spawn() as box:
                    ids.append(box.id)
                    counts.append(box.count())
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert counts == [1] * 60
    assert len(set(ids)) == 60
    assert pool.hits + pool.misses == 60


def test_a_closed_pool_destroys_what_nobody_took_and_leaves_what_was_taken() -> None:
    before = living()
    pool = kibo.pool(Worker(), min=2, max=4)
    box = Worker().spawn()
    pool.close()
    pool.close()
    until(lambda: living() - before == {box.id})
    assert box.count() == 1
    with Worker().spawn() as fresh:
        assert fresh.count() == 1
    assert pool.hits == 1
    box.destroy()
    assert "kibo-pool" not in [thread.name for thread in threading.enumerate()]


def test_one_pool_a_box_and_other_boxes_take_nothing_from_it(pool: Pool) -> None:
    class Other(Box):
        @action
        def name(self) -> str:
            """Say who."""
            return "other"

    with pytest.raises(errors.WrongState, match="already"):
        kibo.pool(Worker())
    with Other().spawn() as box:
        assert box.name() == "other"
    assert (len(pool), pool.hits, pool.misses) == (3, 0, 0)


def test_a_pool_whose_box_cannot_be_made_is_an_error_and_leaves_no_thread() -> None:
    class Broken(Box):
        def resume(self) -> None:
            raise RuntimeError("no")

    for bad in ((0, 1), (3, 2)):
        with pytest.raises(errors.InvalidInput, match="min"):
            kibo.pool(Worker(), min=bad[0], max=bad[1])
    with pytest.raises(errors.KiboError):
        kibo.pool(Broken())
    assert "kibo-pool" not in [thread.name for thread in threading.enumerate()]


def test_a_pool_goes_on_with_a_new_runtime_when_its_own_was_lost(pool: Pool) -> None:
    runtime().states().session.close()
    with Worker().spawn() as box:
        assert box.count() == 1
    until(lambda: len(pool) == 3)
    with Worker().spawn() as box:
        assert box.count() == 1
