"""The warden's timers: run in order, and keep nothing that matters no more."""

from __future__ import annotations

import weakref
from functools import partial

from kibo.runtime.loop import Loop


class Kept:
    """What an action refers to."""


def test_due_actions_run_in_their_order_and_cancelled_ones_do_not() -> None:
    loop, done = Loop(), list[int]()
    timers = [loop.after(0.0, partial(done.append, number)) for number in range(4)]
    timers[1].cancel()
    timers[1].cancel()
    assert loop._run_timers() is None
    assert done == [0, 2, 3]
    timers[2].cancel()
    loop.after(0.0, partial(done.append, 4))
    loop._run_timers()
    assert done == [0, 2, 3, 4], "to cancel what has run changes nothing"


def test_a_cancelled_timer_lets_go_of_what_it_was_for() -> None:
    loop, kept = Loop(), Kept()
    gone = weakref.ref(kept)
    timer = loop.after(300.0, partial(print, kept))
    del kept
    assert gone() is not None
    timer.cancel()
    assert gone() is None


def test_cancelled_timers_do_not_pile_up_until_they_would_be_due() -> None:
    loop = Loop()
    long = [loop.after(1000.0, list) for _ in range(10)]
    for _ in range(1000):
        loop.after(300.0, list).cancel()
    assert len(loop._timers) <= 2 * len(long) + 1
    assert sum(timer.action is not None for _, _, timer in loop._timers) == len(long)
