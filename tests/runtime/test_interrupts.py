"""An interrupt is of one request: it is never lost, and never another's."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.interrupt_boxes import READING, SLOW, Counter, Order
from tests.patience import until

from kibo.model import errors
from kibo.runtime.conversation import Conversation
from kibo.runtime.instance import Instance, conversation_of
from kibo.runtime.waiting import Blocking, run

SEED = 20
ROUNDS = 150


@pytest.fixture
def box() -> Iterator[Instance]:
    with Counter().spawn() as found:
        found.count()
        yield found


@contextmanager
def stopped(talk: Conversation) -> Iterator[None]:
    """Stops the runner in a box during a block, so that it finds all that is sent meanwhile at once."""
    _, (first,) = run(talk.session.ask(Blocking(), "process", {"id": talk.instance}))
    try:
        signal.pidfd_send_signal(first, signal.SIGSTOP)
        yield
    finally:
        signal.pidfd_send_signal(first, signal.SIGCONT)
        os.close(first)


def test_an_interrupt_that_comes_before_its_request_is_read_is_not_lost(box: Instance) -> None:
    talk = conversation_of(box)
    with stopped(talk):
        run(talk.ask_action(talk.spec("count"), [], {}))
        run(talk.interrupt())
    with pytest.raises(errors.ActionTimedOut, match="interrupted"):
        run(talk.answer_of(talk.spec("count"), 5.0))
    assert box.counts() == [1, 1]


def test_an_interrupt_that_comes_while_the_arguments_are_read_is_not_lost(box: Instance) -> None:
    talk = conversation_of(box)
    box.files.write(str(SLOW), b"")
    spec = talk.spec("take")
    run(talk.ask_action(spec, *spec.check_arguments((Order(1),), {})))
    until(lambda: box.exec(f"test -e {READING}").returncode == 0)
    run(talk.interrupt())
    box.exec(f"rm {SLOW}")
    with pytest.raises(errors.ActionTimedOut, match="interrupted"):
        run(talk.answer_of(spec, 5.0))
    assert box.counts() == [1, 1]
    assert box.take(Order(2)) == 2


def test_an_interrupt_that_comes_after_the_answer_is_not_the_next_requests(box: Instance) -> None:
    talk = conversation_of(box)
    with stopped(talk):
        run(talk.interrupt())  # of the call before
        run(talk.ask_action(talk.spec("count"), [], {}))
    assert run(talk.answer_of(talk.spec("count"), 5.0)) == 2


def test_an_interrupt_of_one_state_is_not_a_forks(box: Instance) -> None:
    talk = conversation_of(box)
    run(talk.interrupt())  # of its first call
    (fork,) = box.fork(1)
    with fork:
        assert fork.count() == 2  # its first call, too
        assert box.count() == 2


def test_a_stream_that_is_interrupted_gives_no_half_an_item(box: Instance) -> None:
    talk = conversation_of(box)
    for size in (1, 4 << 20):  # one fits into the socket, and of the other a part
        items = box.items(size)
        next(items)
        interrupter = threading.Thread(target=lambda: run(talk.interrupt()))
        interrupter.start()
        with pytest.raises(errors.ActionTimedOut, match="interrupted"):
            for item in items:
                assert len(item) == size
        interrupter.join()
        assert box.counts() == [1, 1]


def test_interrupts_at_any_moment_end_one_action_or_none(box: Instance) -> None:
    talk = conversation_of(box)
    chance = random.Random(SEED)
    spec = talk.spec("count")
    answers, interrupted = [1], 0
    for _ in range(ROUNDS):
        wait_s = chance.uniform(0, 0.002)
        run(talk.ask_action(spec, [0.001], {}))
        began = time.monotonic()
        while time.monotonic() - began < wait_s:
            pass
        run(talk.interrupt())
        try:
            answers.append(run(talk.answer_of(spec, 5.0)))
        except errors.ActionTimedOut:
            interrupted += 1
        if chance.random() < 0.2:
            box.counts()
    assert interrupted
    assert answers == sorted(set(answers))
    begun, ended = box.counts()
    # One that is interrupted as it returns has ended, and not answered.
    assert len(answers) <= ended <= begun <= ROUNDS + 1
