"""Limits of a box: reached by whoever is in it, felt by nobody else."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from kibo import Box, Env, Limits, action
from kibo.model import errors
from kibo.runtime.cgroups import open_cgroups

HAS_GROUPS = os.geteuid() == 0 and (
    Path("/sys/fs/cgroup/memory").is_dir()
    or "memory" in Path("/sys/fs/cgroup/cgroup.controllers").read_text()
)
HAS_CPUS = HAS_GROUPS and open_cgroups("probe").available()["cpus"]
needs_cpus = pytest.mark.skipif(
    not HAS_CPUS, reason="processors cannot be limited here: no control groups for this user"
)
needs_groups = pytest.mark.skipif(
    not HAS_GROUPS, reason="memory cannot be limited here: no control groups for this user"
)


class Bounded(Box):
    """Takes what it can get, of what every user's boxes can be limited in."""

    env = Env(limits=Limits(pids=40, open_files=64, disk_bytes=32 << 20))

    @action
    def eat(self, size: int) -> int:
        """Take memory."""
        self.eaten = bytearray(os.urandom(1) * size)
        return len(self.eaten)

    @action
    def fork_bomb(self) -> str:
        """Start processes until none can be started."""
        children = []
        try:
            for _ in range(500):
                pid = os.fork()
                if pid == 0:
                    time.sleep(20)
                    os._exit(0)
                children.append(pid)
        except OSError as error:
            return f"{len(children)} {type(error).__name__}"
        finally:
            for pid in children:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
        return "all"

    @action
    def open_many(self) -> str:
        """Open files until none can be opened."""
        files = []
        try:
            for _ in range(500):
                files.append(open("/dev/null"))  # noqa: SIM115
        except OSError as error:
            return f"{len(files)} {error.strerror}"
        finally:
            for file in files:
                file.close()
        return "all"


class Hungry(Bounded):
    """The same with little memory."""

    env = Env(limits=Limits(memory_bytes=96 << 20))


class Halved(Bounded):
    """The same with half a processor."""

    env = Env(limits=Limits(cpus=0.5))

    @action
    def burn(self, seconds: float) -> float:
        """Use what processor time it gets, and tell how much that was."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            pass
        return time.process_time()


class Brief(Box):
    """Has its time."""

    env = Env(limits=Limits(wall_s=0.6))

    @action
    def dwell(self) -> None:
        """Take long."""
        time.sleep(20)


@needs_groups
def test_an_action_that_eats_the_boxs_memory_is_told_so_and_no_other_box_is_touched() -> None:
    with Hungry().spawn() as box, Hungry().spawn() as other:
        assert box.eat(8 << 20) == 8 << 20
        with pytest.raises(errors.MemoryExceeded) as caught:
            box.eat(400 << 20)
        assert "memory_bytes" in caught.value.hint
        with pytest.raises(errors.KiboError):
            box.eat(1)
        assert other.eat(8 << 20) == 8 << 20


@needs_groups
def test_a_command_that_eats_the_boxs_memory_is_killed_and_the_box_lives_on() -> None:
    with Hungry().spawn() as box:
        done = box.exec(["/usr/bin/python3", "-c", "x = bytearray(b'x') * (400 << 20)"])
        assert done.returncode != 0
        assert box.eat(1 << 20) == 1 << 20


@needs_groups
def test_boxes_that_run_out_of_memory_one_after_the_other_are_each_told_so() -> None:
    for _ in range(3):
        with Hungry().spawn() as box, pytest.raises(errors.MemoryExceeded):
            box.eat(400 << 20)


@needs_cpus
def test_processor_time_is_bounded_for_all_that_a_box_runs_together() -> None:
    loop = (
        "import time; e = time.monotonic() + 2\nwhile time.monotonic() < e: pass\nprint(time.process_time())"
    )
    with Halved().spawn() as box:
        commands = [box.popen(["python3", "-c", loop]) for _ in range(2)]
        used = -box.burn(0.0)
        used += box.burn(2.0)
        for command in commands:
            used += float(command.stdout.read())
            command.close()
    # Three that burn for two seconds on half a processor: one second in all, and what the last period lets through.
    assert 0.5 < used < 1.5


def test_a_processor_limit_that_this_user_cannot_have_is_refused() -> None:
    if HAS_CPUS:
        assert Halved().spawn().burn(0.0) > 0
        return
    with pytest.raises(errors.HostUnsupported, match="cpus"):
        Halved().spawn()


def test_a_limit_that_this_user_cannot_have_is_refused_with_a_remedy() -> None:
    if HAS_GROUPS:
        with Hungry().spawn() as box:
            assert box.eat(1) == 1
        return
    with pytest.raises(errors.HostUnsupported, match="memory") as caught:
        Hungry().spawn()
    assert "doctor" in caught.value.hint


def test_a_fork_bomb_stops_at_the_boxs_bound_and_the_box_lives_on() -> None:
    with Bounded().spawn() as box, Bounded().spawn() as other:
        answer = box.fork_bomb()
        assert answer.endswith("BlockingIOError")
        assert 10 < int(answer.split()[0]) <= 40
        assert box.exec("echo on").stdout == "on\n"
        assert other.fork_bomb() == answer


def test_open_files_are_bounded() -> None:
    with Bounded().spawn() as box:
        answer = box.open_many()
        assert "Too many open files" in answer
        assert int(answer.split()[0]) < 64
        assert box.exec("ulimit -n").stdout == "64\n"


class Few(Box):
    """May make few files."""

    env = Env(limits=Limits(disk_files=500))

    @action
    def make(self, place: str) -> int:
        """Make empty files until none can be made; return how many there are."""
        count = 0
        os.mkdir(place)
        while True:
            try:
                os.close(os.open(f"{place}/{count}", os.O_CREAT | os.O_WRONLY))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return count
            count += 1


def test_the_files_of_a_box_are_bounded_in_number_those_in_shared_memory_too() -> None:
    with Few().spawn() as one, Few().spawn() as other:
        made = one.make("/work/many")
        assert 450 <= made <= 520
        with pytest.raises(errors.DiskFull, match="No space left"):
            one.files.write("more", b"x")
        one.exec("rm -r /work/many")
        assert 450 <= one.make("/dev/shm/many") <= 520
        assert other.exec("touch /work/room").returncode == 0
        (fork,) = other.fork()
        with fork:
            assert 450 <= fork.make("/work/many") <= 520


def test_the_disk_of_a_box_is_bounded_and_shared_memory_too() -> None:
    with Bounded().spawn() as box:
        for place in ("/work/big", "/tmp/big", "/dev/shm/big"):
            done = box.exec(f"dd if=/dev/zero of={place} bs=1M count=200; rm {place}")
            assert "No space left" in done.stderr


def test_an_instance_past_its_wall_time_is_destroyed_even_in_an_action() -> None:
    with Brief().spawn() as box:
        begin = time.monotonic()
        with pytest.raises(errors.KiboError, match=r"time|ended"):
            box.dwell()
        assert time.monotonic() - begin < 20
        assert box.status == "ended"
    with Brief().spawn() as box:
        assert box.exec("echo in time").stdout == "in time\n"
        time.sleep(0.8)
        with pytest.raises(errors.KiboError) as caught:
            box.exec("echo late")
        assert caught.value.code == "instance.ended"


def test_a_box_that_burns_all_its_time_does_not_hold_others_up() -> None:
    with Bounded().spawn() as box:
        burner = threading.Thread(target=lambda: box.exec("while :; do :; done", timeout_s=1))

        def burn() -> None:
            with pytest.raises(errors.CommandTimedOut):
                box.exec("while :; do :; done", timeout_s=1)

        burner = threading.Thread(target=burn)
        burner.start()
        with Bounded().spawn() as other:
            assert other.exec("echo on", timeout_s=10).stdout == "on\n"
        burner.join()
