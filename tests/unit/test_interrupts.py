"""Ctrl-C that comes in the middle of what is not to be broken off."""

from __future__ import annotations

import signal
import threading

import pytest

from kibo.model.interrupts import held_back


def test_ctrl_c_comes_at_the_end_of_the_block_and_once():
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
    assert done == ["first"]
    with held_back():
        done.append("second")
    assert done == ["first", "second"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_breaks_the_block():
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it was not broken")


def test_blocks_in_blocks_hold_it_back_to_the_end_of_the_outermost():
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        with held_back():
            signal.raise_signal(signal.SIGINT)
        done.append("inner")
    assert done == ["inner"]


def test_an_error_in_the_block_is_what_ctrl_c_came_during():
    with pytest.raises(KeyboardInterrupt) as raised, held_back():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("in the block")
    assert isinstance(raised.value.__context__, ValueError)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_who_has_no_handler_keeps_none(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with held_back():
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_on_another_thread_nothing_is_changed():
    seen = []

    def work() -> None:
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
