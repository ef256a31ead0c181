"""Cached states: launched once, shared by every sum that contains them, and refused where no fork could have them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leftovers
from kibo import Box, Env, Limits, action, use
from kibo.box.sums import prefix
from kibo.model import errors
from kibo.model.limits import MAX_PARTS
from kibo.runtime.states import Launched
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime


class Engine(Box):
    """The first part."""

    tag: str = ""

    def launch(self) -> None:
        """Leaves a value that tells launches apart."""
        time.sleep(0.05)
        self.serial = random.getrandbits(60)
        with open("/work/engine", "w") as file:
            file.write(str(self.serial))

    @action
    def engine_serial(self) -> int:
        """Return it."""
        return self.serial


class Wheels(Box):
    """The second part, which needs the first."""

    engine = use(Engine)
    tag: str = ""

    def launch(self) -> None:
        """Reads from what it needs."""
        self.seen = self.engine.serial
        self.engine.rides = 1
        with open("/work/engine") as file:
            self.read = int(file.read())

    @action
    def wheels_saw(self) -> list[int]:
        """Return what it saw of the engine, in memory and on disk."""
        return [self.seen, self.read]

    @action
    def ride(self) -> int:
        """Change the part that it needs."""
        self.engine.rides += 1
        return int(self.engine.rides)


class Radio(Box):
    """A third part, which needs nobody."""

    tag: str = ""

    @action
    def play(self, song: str) -> str:
        """Play."""
        return f"♪ {song}"


def cells_of(label: str, within_s: float = 5.0) -> list[dict[str, Any]]:
    """Lists the warden's cells of a box, once those that are being destroyed are gone."""
    deadline = time.monotonic() + within_s
    while True:
        answer, _ = run(runtime().states().session.ask(Blocking(), "list", {}))
        found = [cell for cell in answer["cells"] if cell["label"] == label]
        if all(cell["state"] == "sealed" for cell in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def build_events(box: Box) -> list[str]:
    """Spawns a box and lists the parts that were launched for it."""
    launched: list[str] = []

    def note(event: Any) -> None:
        if isinstance(event, Launched):
            launched.append(event.part)

    box.spawn(progress=note).destroy()
    return launched


def test_a_launch_runs_once_however_many_instances_there_are() -> None:
    box = Engine(tag="once")
    assert build_events(box) == ["Engine"]
    assert build_events(box) == []
    with box.spawn() as one, Engine(tag="once").spawn() as other:
        assert one.engine_serial() == other.engine_serial()


def test_every_prefix_of_a_sum_is_a_state_that_other_sums_use() -> None:
    engine, wheels, radio = Engine(tag="p"), Wheels(tag="p"), Radio(tag="p")
    assert build_events(engine + wheels) == ["Engine", "Wheels"]
    assert build_events(engine) == []
    assert build_events(engine + wheels + radio) == ["Radio"]
    assert build_events(engine + radio) == ["Radio"]
    with engine.spawn() as alone, (engine + wheels + radio).spawn() as whole:
        assert whole.engine_serial() == alone.engine_serial()
        assert whole.wheels_saw() == [alone.engine_serial()] * 2
        assert whole.play("a") == "♪ a"


def test_a_part_sees_the_live_part_that_it_needs() -> None:
    with (Engine() + Wheels()).spawn() as one, (Engine() + Wheels()).spawn() as other:
        assert [one.ride(), one.ride(), other.ride()] == [2, 3, 2]


class Numbered(Box):
    """One of many."""

    n: int

    def launch(self) -> None:
        self._seen = self.n


class Deepest(Box):
    """The last of many."""

    @action
    def answer(self) -> str:
        """Answer."""
        return "deep"


def test_a_sum_of_as_many_parts_as_there_may_be_is_forked_level_by_level() -> None:
    whole = Box()
    for n in range(MAX_PARTS - 1):
        whole = whole + Numbered(n=n)
    with (whole + Deepest()).spawn() as box:
        assert box.answer() == "deep"
        assert box.exec("id -un").stdout == "box\n"


def test_a_need_that_nobody_meets_is_named_before_anything_is_built() -> None:
    with pytest.raises(errors.UnmetNeed, match="Engine") as caught:
        Wheels().spawn()
    assert "Engine" in caught.value.hint + str(caught.value)
    with pytest.raises(errors.UnmetNeed):
        (Wheels() + Engine()).spawn()


def test_sides_that_conflict_are_both_named() -> None:
    class Other(Box):
        """Plays differently."""

        @action
        def play(self, song: str) -> int:
            """Play."""
            return len(song)

    with pytest.raises(errors.CompositionConflict, match=r"Radio.*Other|Other.*Radio"):
        Radio() + Other()
    with (Radio() | Other()).spawn() as box:
        assert box.play("abc") == 3


def test_threads_that_want_one_state_at_once_wait_for_one_build() -> None:
    box, launched = Engine(tag="crowd") + Wheels(tag="crowd"), []
    serials: set[int] = set()

    def work() -> None:
        def note(event: Any) -> None:
            if isinstance(event, Launched):
                launched.append(event.part)

        with box.spawn(progress=note) as instance:
            serials.add(instance.engine_serial())

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(launched) == ["Engine", "Wheels"]
    assert len(serials) == 1


def test_layers_of_the_parts_are_all_there_in_a_sum() -> None:
    class One(Box):
        env = Env(files={"/work/one": b"1"}, variables={"ONE": "1"})

        def launch(self) -> None:
            with open("/work/kept", "w") as file:
                file.write("by one")

    class Two(Box):
        env = Env(files={"/work/two": b"2"}, variables={"TWO": "2"})

        def launch(self) -> None:
            with open("/work/kept", "a") as file:
                file.write(
                    ", seen by two with "
                    + Path("/work/one").read_text()
                    + os.environ["ONE"]
                    + os.environ["TWO"]
                )

    with (One() + Two()).spawn() as box:
        assert box.exec("cat one two kept; echo $ONE$TWO").stdout == "12by one, seen by two with 11212\n"
    with One().spawn() as box:
        assert box.exec("cat kept; ls").stdout == "by onekept\none\n"


def test_a_launch_that_raises_fails_the_build_and_leaves_nothing() -> None:
    class Broken(Box):
        def launch(self) -> None:
            raise ConnectionError("no shop")

    for _ in range(2):  # a failure is not cached
        with pytest.raises(errors.BuildFailed, match="no shop") as caught:
            (Engine() + Broken()).spawn()
        assert "ConnectionError" in caught.value.log_tail
        assert caught.value.step == "launch Broken"
        assert "launch" in str(caught.value)
    with Engine().spawn() as box:
        assert box.engine_serial()


def test_a_launch_that_exits_fails_the_build() -> None:
    class Leaver(Box):
        def launch(self) -> None:
            os._exit(3)

    with pytest.raises(errors.BuildFailed, match="ended") as caught:
        Leaver().spawn()
    assert "launch()" in caught.value.hint


def test_a_step_of_the_environment_that_fails_shows_its_log() -> None:
    class Broken(Box):
        env = Env(run=["echo grinding; echo no beans >&2; exit 9"])

    with pytest.raises(errors.BuildFailed, match="9") as caught:
        Broken().spawn()
    assert "no beans" in str(caught.value)
    assert "echo grinding" in caught.value.step


class Threaded(Box):
    """Leaves a thread."""

    name: str = "till"

    def launch(self) -> None:
        """Starts it."""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.stop.wait, name=self.name, daemon=True)
        self.thread.start()


class Suspending(Threaded):
    """Ends its thread before the state is kept, and starts another in each instance."""

    def suspend(self) -> None:
        """Ends it."""
        self.stop.set()
        self.thread.join()

    def resume(self) -> None:
        """Starts another."""
        self.launch()

    @action
    def runs(self) -> bool:
        """Whether it runs."""
        return self.thread.is_alive()


def test_a_launch_that_hangs_is_interrupted_at_its_limit_and_leaves_nothing() -> None:
    class Hung(Box):
        env = Env(limits=Limits(launch_s=0.5))

        def launch(self) -> None:
            try:
                time.sleep(60)
            finally:
                self.unwound = True

    for _ in range(2):
        begin = time.monotonic()
        with pytest.raises(errors.BuildFailed, match=r"launch Hung did not end within 0\.5 s") as caught:
            Hung().spawn()
        assert time.monotonic() - begin < 60
        assert caught.value.step == "launch Hung"
        assert "launch_s" in caught.value.hint
    assert not cells_of("Hung")


def test_a_launch_that_will_not_be_interrupted_is_killed() -> None:
    class Stubborn(Box):
        env = Env(limits=Limits(launch_s=0.3))

        def launch(self) -> None:
            while True:
                with contextlib.suppress(BaseException):
                    time.sleep(60)

    with pytest.raises(errors.BuildFailed, match="did not end"):
        Stubborn().spawn()
    assert not cells_of("Stubborn")


def test_a_suspend_that_hangs_fails_the_build_at_its_limit() -> None:
    class Sleepy(Box):
        env = Env(limits=Limits(launch_s=0.3))

        def suspend(self) -> None:
            time.sleep(60)

    with pytest.raises(errors.BuildFailed, match="suspending Sleepy did not end"):
        Sleepy().spawn()
    assert not cells_of("Sleepy")


def test_a_resume_that_hangs_is_an_error_at_its_limit() -> None:
    class Awaited(Box):
        env = Env(limits=Limits(launch_s=0.3))

        def resume(self) -> None:
            time.sleep(60)

    with pytest.raises(errors.ActionTimedOut, match="resume") as caught:
        Awaited().spawn()
    assert "launch_s" in caught.value.hint
    cells = cells_of("Awaited")
    assert [cell["id"].partition("_")[0] for cell in cells] == ["state"]


def test_a_thread_that_a_launch_leaves_is_named() -> None:
    with pytest.raises(errors.StateNotForkable, match="till") as caught:
        Threaded().spawn()
    assert "resume" in caught.value.hint


def test_suspend_and_resume_carry_what_cannot_be_forked() -> None:
    with Suspending().spawn() as one, Suspending().spawn() as other:
        assert one.runs()
        assert other.runs()


def test_resume_runs_in_every_instance_and_not_in_the_state() -> None:
    class Counter(Box):
        def launch(self) -> None:
            self.resumed = 0

        def resume(self) -> None:
            self.resumed += 1

        @action
        def count(self) -> int:
            """Count."""
            return self.resumed

    for _ in range(2):
        with Counter().spawn() as box:
            assert box.count() == 1


def test_a_resume_that_raises_is_shown_and_leaves_no_instance() -> None:
    class Stuck(Box):
        def resume(self) -> None:
            raise TimeoutError("no browser")

    with pytest.raises(errors.ActionRaised, match="no browser") as caught:
        Stuck().spawn()
    assert "Stuck.resume" in str(caught.value)


@contextlib.contextmanager
def warden_on_a_busy_machine() -> Iterator[None]:
    """Has the warden come to its turn late, at random, as where other processes keep the processors busy."""
    warden, over = leftovers.warden_of(os.getpid()), threading.Event()

    def hold_up() -> None:
        while not over.is_set():
            os.kill(warden, signal.SIGSTOP)
            over.wait(random.uniform(0, 0.02))
            os.kill(warden, signal.SIGCONT)
            over.wait(random.uniform(0, 0.005))

    thread = threading.Thread(target=hold_up)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_launch_that_starts_threads_does_not_get_ahead_of_the_wardens_look_at_its_rights() -> None:
    class Threaded(Box):
        tag: int

        def launch(self) -> None:
            self.resume()

        def resume(self) -> None:
            self.end = threading.Event()
            self.thread = threading.Thread(target=self.end.wait)
            self.thread.start()

        def suspend(self) -> None:
            self.end.set()
            self.thread.join()

        @action
        def threads_run(self) -> bool:
            return self.thread.is_alive()

    Threaded(tag=-1).spawn().destroy()
    with warden_on_a_busy_machine():
        for number in range(12):
            with Threaded(tag=number).spawn() as box:
                assert box.threads_run()


def test_programs_that_a_launch_leaves_are_ended() -> None:
    class Leaver(Box):
        def launch(self) -> None:
            self.child = subprocess.Popen(["sleep", "91"])

    with Leaver().spawn() as box:
        assert box.exec("ls -d /proc/[0-9]* | wc -l").stdout.strip() in ("3", "4", "5")
        assert "sleep 91" not in box.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


@pytest.mark.parametrize("kept", ["deleted", "memory", "timer"])
def test_what_no_fork_can_have_is_named(kept: str) -> None:
    class Keeper(Box):
        kind: str

        def launch(self) -> None:
            if self.kind == "deleted":
                os.mkdir("gone")
                self.directory = os.open("gone", os.O_RDONLY)
                os.rmdir("gone")
            elif self.kind == "memory":
                import mmap

                self.map = mmap.mmap(-1, 4096)
            else:
                import ctypes

                self.timer = ctypes.CDLL(None).timerfd_create(1, 0)

    expected = {"deleted": "deleted", "memory": "shared memory", "timer": "timerfd"}[kept]
    with pytest.raises(errors.StateNotForkable, match=expected) as caught:
        Keeper(kind=kept).spawn()
    assert "suspend" in caught.value.hint


class Plumber(Box):
    """Leaves pipes, sockets and a listener open."""

    def launch(self) -> None:
        """Opens them."""
        import select

        self.read, self.write = os.pipe()
        self.left, self.right = socket.socketpair()
        self.poll = select.epoll()
        self.poll.register(self.read, select.EPOLLIN)

    @action
    def pour(self, text: str) -> None:
        """Write into the pipe."""
        os.write(self.write, text.encode())

    @action
    def drain(self) -> str:
        """Read what the poll says is there."""
        return "".join(os.read(fd, 100).decode() for fd, _ in self.poll.poll(0))

    @action
    def talk(self) -> str:
        """Write to a socket that its launch connected."""
        try:
            self.left.send(b"x")
        except OSError as error:
            return type(error).__name__
        return "sent"


def test_pipes_and_sockets_of_a_state_connect_no_two_instances() -> None:
    with Plumber().spawn() as one, Plumber().spawn() as other:
        one.pour("one")
        assert other.drain() == ""
        assert one.drain() == "one"
        assert one.talk() != "sent"


def test_a_module_that_the_box_lacks_is_named_with_its_remedy() -> None:
    class Cook(Box):
        @action
        def cook(self) -> str:
            """Import what is not there."""
            import no_such_oven  # type: ignore[import-not-found]

            return str(no_such_oven)

    with Cook().spawn() as box, pytest.raises(errors.ActionRaised, match="no_such_oven"):
        box.cook()


def test_a_box_whose_class_needs_a_module_that_it_lacks_says_so_when_built() -> None:
    class Needy(Box):
        @action
        def version(self) -> str:
            """Use a module of the host."""
            return pytest.__version__

    with pytest.raises(errors.BuildFailed, match="pytest") as caught:
        Needy().spawn()
    assert "Env.pip" in caught.value.hint or "pip=" in caught.value.hint


def test_a_prefix_of_a_sum_is_what_its_left_side_is() -> None:
    assert prefix(Engine() + Radio(), 1) == Engine()


def test_a_module_that_is_loaded_under_two_names_is_no_hindrance() -> None:
    import sys

    sys.modules["alias_of_these_tests"] = sys.modules[__name__]
    try:
        Radio(tag="alias").spawn().destroy()
    finally:
        del sys.modules["alias_of_these_tests"]
