"""Branches that are used by several threads at once: one wins, the others stop, and nobody sees half of anything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kibo
from kibo.branch.branch import Branch
from kibo.model.errors import BranchClosed, BranchStale, BranchTaken, InstanceEnded, KiboError, WrongState
from kibo.wiring import runtime
from value_boxes import Values

WITHIN_S = 0.1

COUNTING = "i=0; while :; do i=$((i+1)); echo $i > /work/program; done"


@pytest.fixture
def main() -> Iterator[Branch]:
    with kibo.branch("to be raced for") as branch:
        yield branch


def together(*acts: Callable[[], Any]) -> list[Any]:
    """Does all of it at once, each in a thread; returns what came of each, or what it raised."""
    start = threading.Barrier(len(acts))
    came: list[Any] = [None] * len(acts)

    def run(index: int, act: Callable[[], Any]) -> None:
        start.wait()
        try:
            came[index] = act()
        except KiboError as error:
            came[index] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return came


@pytest.mark.parametrize("threads", [2, 8])
def test_of_siblings_that_are_committed_at_once_exactly_one_wins(main, threads):
    box = main.spawn(Values())
    for turn in range(5):
        forks = main.fork(threads)
        for number, fork in enumerate(forks):
            fork[box].put("who", [turn, number])
        came = together(*(fork.commit for fork in forks))
        [won] = [number for number, each in enumerate(came) if not isinstance(each, KiboError)]
        assert {type(each) for each in came if isinstance(each, KiboError)} == {BranchStale}, turn
        assert box.get("who") == [turn, won]
        assert [fork.status for fork in forks] == [
            "committed" if number == won else "stale" for number in range(threads)
        ]
        for number, fork in enumerate(forks):
            with pytest.raises(InstanceEnded):
                fork[box].get("who")
            assert [change.path for change in fork.diff()] == ["/work/who"], number


def written_by(main: Branch, branch: Branch, name: str) -> Path:
    """Returns where the host sees the file that a branch's only instance writes."""
    [member] = branch._running.members.values()
    return main._running.family.deltas.path(member.spawned.upper) / "u/work" / name


def state_of(path: Path) -> tuple[str, int]:
    return path.read_text(), path.stat().st_mtime_ns


def test_a_loser_that_writes_in_a_loop_writes_nothing_once_the_winner_is_committed(main):
    box = main.spawn(Values())
    for _ in range(5):
        by_action, by_program, winner = main.fork(3)
        raised: list[BaseException] = []

        def count(one: Any = by_action[box], raised: list[BaseException] = raised) -> None:
            try:
                one.count_for_ever("action")
            except KiboError as error:
                raised.append(error)  # noqa: B023 - it is the handler's own

        thread = threading.Thread(target=count)
        thread.start()
        program = by_program[box].popen(["sh", "-c", COUNTING])
        files = [written_by(main, by_action, "action"), written_by(main, by_program, "program")]
        deadline = time.monotonic() + 10
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        winner[box].put("a", 1)
        winner.commit()
        time.sleep(WITHIN_S)
        before = [state_of(file) for file in files]
        time.sleep(WITHIN_S)
        assert [state_of(file) for file in files] == before
        thread.join(10)
        assert [type(error) for error in raised] == [InstanceEnded]
        program.close()
        assert box.get("a") == 1


def test_a_fork_waits_for_calls_of_other_threads_and_has_all_or_nothing_of_each(main):
    box = main.spawn(Values())
    box.put("a", 0)
    box.put("b", 0)
    done = threading.Event()
    failed: list[BaseException] = []

    def call() -> None:
        number = 0
        try:
            while not done.is_set():
                number += 1
                box.put_both("a", "b", number)
        except BaseException as error:  # noqa: BLE001 - the test says so
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = []
    try:
        for _ in range(10):
            one, two = main.fork(2)
            first = (one[box].get("a"), one[box].get("b"))
            assert first[0] == first[1]
            assert (two[box].get("a"), two[box].get("b")) == first
            seen.append(first)
            one.abort()
            two.abort()
    finally:
        done.set()
        for thread in threads:
            thread.join(10)
    assert failed == []
    assert len(set(seen)) > 1, "no call came between the forks"


def test_an_abort_during_a_fork_leaves_nothing_that_runs(main):
    box = main.spawn(Values())
    for turn in range(15):
        (middle,) = main.fork(1)
        middle[box].put("a", turn)

        def abort(middle: Branch = middle, turn: int = turn) -> None:
            time.sleep(turn * 0.001)
            middle.abort()

        came, _ = together(lambda middle=middle: middle.fork(3), abort)
        assert middle.status == "aborted"
        if isinstance(came, KiboError):
            assert isinstance(came, BranchClosed | InstanceEnded), came
            continue
        for fork in came:
            assert fork.status == "aborted"
            with pytest.raises(InstanceEnded):
                fork[box].get("a")
            with pytest.raises(WrongState):
                fork.commit()
    assert box.get("a") is None
    (last,) = main.fork(1)
    last[box].put("a", 1)
    last.commit()
    assert box.get("a") == 1


def test_an_abort_during_a_commit_is_before_it_or_after_it(main):
    box = main.spawn(Values())
    outcomes = set()
    for turn in range(10):
        (one,) = main.fork(1)
        one[box].put("a", turn)
        before = box.get("a")

        def abort(one: Branch = one, turn: int = turn) -> None:
            time.sleep(turn * 0.001)
            one.abort()

        came, _ = together(one.commit, abort)
        if isinstance(came, KiboError):
            assert isinstance(came, BranchClosed | InstanceEnded), came
            assert (one.status, box.get("a")) == ("aborted", before)
        else:
            assert (one.status, box.get("a")) == ("committed", turn)
        outcomes.add(one.status)
        box.put("b", turn)


def test_forty_rounds_on_one_main_stay_right_past_what_the_kernel_nests(main):
    box = main.spawn(Values())
    lost = 0
    for turn in range(40):
        one, other = main.fork(2)
        if one.live:
            assert one.reasons == ()
            assert one[box].get("last") == (turn - 1 - lost if turn > lost else None) or lost
        else:
            lost += 1
            assert all("Values" in reason for reason in one.reasons)
            assert one[box].get("last") is None
        one[box].put(f"round{turn}", turn)
        one[box].put("last", turn)
        other[box].put("other", turn)
        one.commit()
        assert box.get("last") == turn
        assert other.status == "stale"
    expected = {f"round{turn}": repr(turn) for turn in range(40)}
    assert box.seen() == {**expected, "last": "39"}
    assert lost < 5, "a fork with fresh guests begins a nest anew"


def in_another_process(code: str) -> str:
    """Runs a program that uses the same state directory, and returns what it printed."""
    program = f"import kibo\nfrom value_boxes import Values\n{code}"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_checkout_elsewhere_is_not_committed_into_a_branch_that_runs_here(main: Branch) -> None:
    box = main.spawn(Values())
    box.put("drink", "latte")
    main.snapshot()
    code = f"""
with kibo.checkout("{main.id}", Values()) as there:
    there["Values"].put("drink", "mocha")
    try:
        there.commit()
    except kibo.KiboError as error:
        print(error.code, error.details["process"])
"""
    assert in_another_process(code) == f"state.wrong {os.getpid()}"
    box.put("size", "small")
    (fork,) = main.fork()
    assert (fork[box].get("drink"), fork[box].get("size")) == ("latte", "small")
    fork.commit()


@pytest.mark.parametrize("verb", ["snapshot", "fork", "commit", "merge"])
def test_a_branch_that_another_took_over_is_told_so_and_overwrites_nothing(verb: str) -> None:
    with pytest.raises(BranchTaken), kibo.branch() as main:  # leaving it, too
        box = main.spawn(Values())
        box.put("drink", "latte")
        (fork,) = main.fork()
        fork[box].put("drink", "mocha")
        history = runtime().records().history
        # As one does who knows nothing of this process: one that was started before it, say.
        (other,) = history.fork(main.id)
        history.snapshot(other.id, history.get_snapshot(other.head).world | {"theirs": {}})
        taken = history.commit(other.id)
        box.put("size", "small")
        acts: dict[str, Callable[[], Any]] = {
            "snapshot": main.snapshot,
            "fork": main.fork,
            "commit": lambda: fork.commit(overwrite=True),
            "merge": fork.merge,
        }
        with pytest.raises(BranchTaken):
            acts[verb]()
        assert history.get(main.id).head == taken.head
        assert (box.get("drink"), box.get("size")) == ("latte", "small")
    assert history.get(main.id).head == taken.head
