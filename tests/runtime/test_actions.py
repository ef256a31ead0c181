"""What happens to an action's caller when the action misbehaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from kibo import Box, Env, Limits, action
from kibo.model import errors
from kibo.runtime.instance import Instance


class Worker(Box):
    """Does as it is told."""

    @action
    def greet(self, name: str, times: int = 1) -> str:
        """Greet somebody."""
        return f"hello {name}" * times

    @action
    def remember(self, value: int) -> int:
        """Keep a value and return the one before."""
        before = getattr(self, "value", -1)
        self.value = value
        return before

    @action
    def fail(self, text: str) -> str:
        """Raise."""
        raise ValueError(text)

    @action
    def fail_deep(self) -> str:
        """Raise from a cause."""
        try:
            return str(1 // 0)
        except ZeroDivisionError as error:
            raise RuntimeError("the till is stuck") from error

    @action
    def wrong(self) -> int:
        """Return what it did not promise."""
        return "not a number"  # type: ignore[return-value]

    @action
    def unsendable(self) -> Any:
        """Return what no message can hold."""
        return lambda: None

    @action
    def large(self, size: int) -> bytes:
        """Return much."""
        return b"x" * size

    @action(timeout_s=0.3)
    def sleep(self, seconds: float) -> str:
        """Sleep."""
        time.sleep(seconds)
        return "slept"

    @action(timeout_s=0.3)
    def spin(self) -> None:
        """Compute without end."""
        while True:
            pass

    @action(timeout_s=0.3)
    def cling(self) -> None:
        """Ignore every interruption."""
        while True:
            try:
                while True:
                    time.sleep(1)
            except BaseException:  # noqa: BLE001 (that is what it is for)
                pass

    @action
    def leave(self, how: str) -> None:
        """End the process."""
        if how == "sys.exit":
            sys.exit(3)
        if how == "os._exit":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, how))

    @action
    def crash(self) -> None:
        """Read where nothing is."""
        import ctypes

        ctypes.string_at(0)

    @action
    def recurse(self) -> None:
        """Call itself without end."""
        self.recurse()

    @action
    def orphan(self, count: int) -> int:
        """Start processes whose parents end at once."""
        for _ in range(count):
            subprocess.run(["/bin/sh", "-c", "sleep 0.01 & exit 0"], check=True)
        return count

    @action
    def zombies(self) -> int:
        """Count the dead that nobody has reaped."""
        count = 0
        for pid in os.listdir("/proc"):
            if pid.isdigit():
                with open(f"/proc/{pid}/stat") as file:
                    count += file.read().rpartition(")")[2].split()[0] == "Z"
        return count

    @action
    def start(self) -> None:
        """Start a program that another call waits for."""
        self.child = subprocess.Popen(["/bin/sh", "-c", "exit 7"])

    @action
    def fork_plainly(self) -> int:
        """Fork in the oldest way and wait for it."""
        pid = os.fork()
        if pid == 0:
            os._exit(9)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @action
    def wait(self) -> int:
        """Wait for it."""
        return self.child.wait()

    @action
    def count(self, upto: int) -> Generator[int, None, str]:
        """Count."""
        yield from range(upto)
        return "done"

    @action
    def count_and_note(self, upto: int) -> Iterator[int]:
        """Count, and note when it is closed."""
        self.noted = "open"
        try:
            yield from range(upto)
        finally:
            self.noted = "closed"

    @action
    def note(self) -> str:
        """Return the note."""
        return self.noted

    @action
    def count_and_fail(self) -> Iterator[int]:
        """Count, then raise."""
        yield 1
        raise KeyError("two")

    @action
    def count_wrongly(self) -> Iterator[int]:
        """Yield what it did not promise."""
        yield "one"  # type: ignore[misc]

    @action
    def say(self, text: str) -> None:
        """Print."""
        print(text)
        os.write(2, b"and on standard error\n")


@pytest.fixture
def box() -> Iterator[Instance]:
    with Worker().spawn() as instance:
        yield instance


def still_works(instance: Instance) -> bool:
    return bool(instance.greet("ada") == "hello ada")


def test_an_action_returns_its_result(box: Instance) -> None:
    assert box.greet("ada") == "hello ada"
    assert box.greet(name="bo", times=2) == "hello bohello bo"


def test_an_instance_keeps_what_an_action_left(box: Instance) -> None:
    assert [box.remember(1), box.remember(2), box.remember(3)] == [-1, 1, 2]


def test_an_unknown_action_names_those_there_are(box: Instance) -> None:
    with pytest.raises(errors.UnknownAction, match="gret") as caught:
        box.gret("ada")
    assert "greet" in caught.value.hint
    assert still_works(box)


@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        ((1,), {}, "name"),
        ((), {}, "name"),
        (("ada",), {"times": "twice"}, "times"),
        (("ada",), {"tims": 2}, "tims"),
        (("ada", 1, 2), {}, "position"),
        (("ada",), {"name": "bo"}, "name"),
    ],
)
def test_wrong_arguments_are_refused_before_the_action_starts(
    box: Instance, args: tuple[Any, ...], kwargs: dict[str, Any], names: str
) -> None:
    with pytest.raises(errors.InvalidArguments, match=names) as caught:
        box.greet(*args, **kwargs)
    assert caught.value.code == "action.arguments"
    assert caught.value.hint
    assert still_works(box)


def test_a_result_of_the_wrong_type_is_an_error(box: Instance) -> None:
    with pytest.raises(errors.InvalidResult, match="int") as caught:
        box.wrong()
    assert caught.value.details["got"] == "str"
    assert still_works(box)


def test_a_result_that_cannot_travel_is_an_error(box: Instance) -> None:
    with pytest.raises(errors.InvalidResult, match="function") as caught:
        box.unsendable()
    assert "dataclasses" in caught.value.hint
    assert still_works(box)


def test_a_result_as_large_as_a_message_arrives_and_a_larger_one_is_an_error(box: Instance) -> None:
    assert len(box.large(15 << 20)) == 15 << 20
    with pytest.raises(errors.FrameTooLarge) as caught:
        box.large(17 << 20)
    assert "files" in caught.value.hint
    assert still_works(box)


def test_an_argument_larger_than_a_message_is_an_error(box: Instance) -> None:
    with pytest.raises(errors.FrameTooLarge) as caught:
        box.greet("x" * (17 << 20))
    assert "files" in caught.value.hint
    assert still_works(box)


def test_an_exception_comes_with_its_remote_traceback(box: Instance) -> None:
    with pytest.raises(errors.ActionRaised, match="no milk") as caught:
        box.fail("no milk")
    assert caught.value.remote_type == "ValueError"
    assert "traceback" in caught.value.hint
    assert "guest.py" not in caught.value.remote_traceback
    assert "raise ValueError(text)" in str(caught.value) or "in fail" in str(caught.value)
    assert still_works(box)


def test_an_exceptions_cause_is_shown_too(box: Instance) -> None:
    with pytest.raises(errors.ActionRaised) as caught:
        box.fail_deep()
    assert "ZeroDivisionError" in caught.value.remote_traceback
    assert "the till is stuck" in caught.value.remote_traceback


def test_an_endless_recursion_is_an_exception_like_others(box: Instance) -> None:
    with pytest.raises(errors.ActionRaised) as caught:
        box.recurse()
    assert caught.value.remote_type == "RecursionError"
    assert still_works(box)


def test_an_exception_with_a_huge_message_is_cut(box: Instance) -> None:
    with pytest.raises(errors.ActionRaised) as caught:
        box.fail("x" * (8 << 20))
    assert len(str(caught.value)) < 1 << 20
    assert still_works(box)


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_an_action_that_hangs_is_interrupted_and_the_instance_lives_on(box: Instance, name: str) -> None:
    begin = time.monotonic()
    with pytest.raises(errors.ActionTimedOut, match=name) as caught:
        getattr(box, name)(*((30.0,) if name == "sleep" else ()))
    assert time.monotonic() - begin < 30
    assert "lives on" in caught.value.hint
    assert f"in {name}\n" in caught.value.details["traceback"]
    assert still_works(box)


def test_an_action_that_ignores_its_interruption_is_destroyed_with_its_instance(box: Instance) -> None:
    with pytest.raises(errors.ActionTimedOut) as caught:
        box.cling()
    assert "destroyed" in caught.value.hint
    with pytest.raises(errors.InstanceEnded):
        box.greet("ada")
    assert box.status == "ended"


@pytest.mark.parametrize("how", ["os._exit", "SIGSEGV", "SIGABRT"])
def test_an_action_that_ends_its_process_ends_the_instance(box: Instance, how: str) -> None:
    # To a signal that nobody catches, the first process of a namespace is deaf (pid_namespaces(7)).
    if how.startswith("SIG"):
        box.leave(how)
        assert still_works(box)
        return
    with pytest.raises(errors.ActionExited, match="leave"):
        box.leave(how)
    with pytest.raises(errors.InstanceEnded):
        box.greet("ada")


def test_an_action_that_crashes_ends_the_instance(box: Instance) -> None:
    with pytest.raises(errors.ActionExited, match="crash"):
        box.crash()
    assert box.status == "ended"


def test_an_action_that_calls_exit_raises(box: Instance) -> None:
    with pytest.raises(errors.ActionRaised) as caught:
        box.leave("sys.exit")
    assert caught.value.remote_type == "SystemExit"
    assert still_works(box)


def test_an_instance_killed_from_outside_is_an_error_at_once(box: Instance) -> None:
    failures: list[BaseException] = []

    def call() -> None:
        try:
            box.sleep(0.25)
        except errors.KiboError as error:
            failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.05)
    box._conversation.session.forget(box.id)
    caller.join(5)
    assert [type(error) for error in failures] == [errors.ActionExited]


def test_orphans_do_not_pile_up(box: Instance) -> None:
    box.orphan(30)
    time.sleep(0.1)
    box.greet("ada")  # the dead are reaped between calls
    assert box.zombies() == 0


def test_the_status_of_a_program_that_an_action_started_is_its_own(box: Instance) -> None:
    box.start()
    time.sleep(0.05)
    box.greet("ada")
    assert box.wait() == 7
    assert box.fork_plainly() == 9


def test_orphans_are_reaped_behind_a_program_that_an_action_keeps(box: Instance) -> None:
    box.start()
    time.sleep(0.05)
    box.orphan(5)
    time.sleep(0.1)
    box.greet("ada")
    assert box.zombies() == 1  # the one that still waits to be asked for
    assert box.wait() == 7


def test_a_stream_yields_its_items_and_returns_its_result(box: Instance) -> None:
    stream = box.count(3)
    assert [next(stream), next(stream), next(stream)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == "done"
    assert still_works(box)


def test_a_long_stream_arrives_whole_and_in_order(box: Instance) -> None:
    assert list(box.count(5000)) == list(range(5000))


def test_a_stream_that_its_reader_leaves_is_closed_in_the_box(box: Instance) -> None:
    for number in box.count_and_note(1 << 40):
        if number == 5:
            break
    assert box.note() == "closed"


def test_a_stream_that_nobody_began_to_read_does_nothing(box: Instance) -> None:
    box.count_and_note(3)
    assert still_works(box)


def test_a_stream_that_raises_gives_its_items_first(box: Instance) -> None:
    stream = box.count_and_fail()
    assert next(stream) == 1
    with pytest.raises(errors.ActionRaised, match="two"):
        next(stream)
    assert still_works(box)


def test_an_item_of_the_wrong_type_is_an_error_and_ends_the_stream(box: Instance) -> None:
    with pytest.raises(errors.InvalidResult):
        list(box.count_wrongly())
    assert still_works(box)


def test_what_actions_print_is_in_the_logs(box: Instance) -> None:
    box.say("ground")
    box.say("beans")
    assert box.logs() == "ground\nand on standard error\nbeans\nand on standard error\n"
    assert box.logs(tail_bytes=6) == "error\n"


def test_an_actions_limit_comes_from_its_box_where_it_sets_none() -> None:
    with Hasty().spawn() as box, pytest.raises(errors.ActionTimedOut, match=r"0\.2 s"):
        box.dawdle()


class Hasty(Box):
    """Has no time."""

    env = Env(limits=Limits(action_s=0.2))

    @action
    def dawdle(self) -> None:
        """Take long."""
        time.sleep(30)


def test_calls_from_many_threads_wait_for_each_other(box: Instance) -> None:
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(box.greet("ada"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["hello ada"] * 20


def test_a_call_on_a_destroyed_instance_is_an_error() -> None:
    box = Worker().spawn()
    box.destroy()
    box.destroy()
    for use in (
        lambda: box.greet("ada"),
        lambda: box.exec("true"),
        lambda: box.files.read("x"),
        box.logs,
        box.diff,
    ):
        with pytest.raises(errors.InstanceEnded) as caught:
            use()
        assert caught.value.hint
