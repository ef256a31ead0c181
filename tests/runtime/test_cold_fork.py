"""Forks of an instance in which something runs: its files at one moment, and nothing in it notices."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import leftovers
from kibo import Box, Env, Limits, Service, action, aio
from kibo.model import errors
from kibo.runtime import forking, points
from kibo.runtime.instance import Instance
from patience import until

PYTHON = "/usr/bin/python3"

#: Writes a number into one file and then into another, thousands of times a second, and prints it.
PAIRS = """
import os
a, b = (os.open(name, os.O_WRONLY | os.O_CREAT) for name in "ab")
for number in range(1, 1 << 40):
    for fd in (a, b):
        os.pwrite(fd, b"%012d" % number, 0)
    if number % 100 == 0:
        os.write(1, b"%d\\n" % number)
"""


class Busy(Box):
    """Counts, and does what it is told."""

    def launch(self) -> None:
        self.count = 0

    @action
    def add(self) -> int:
        self.count += 1
        with open("count.txt", "w") as file:
            file.write(str(self.count))
        return self.count

    @action
    def start_thread(self) -> None:
        threading.Thread(target=threading.Event().wait, name="waits for ever", daemon=True).start()

    @action
    def run(self, code: str) -> Any:
        scope: dict[str, Any] = {"box": self}
        exec(code, scope)
        return scope.get("result")


@pytest.fixture
def busy() -> Iterator[Instance]:
    with Busy().spawn() as instance:
        instance.add()
        yield instance


@contextlib.contextmanager
def running(instance: Instance, code: str, *words: str) -> Iterator[Any]:
    """A Python program in the box, which has printed its first line."""
    with instance.popen([PYTHON, "-c", code, *words]) as process:
        assert process.stdout.readline()
        yield process


def test_every_fork_has_the_files_of_one_moment_and_the_writer_sees_no_gap(busy: Instance) -> None:
    with running(busy, PAIRS) as writer:
        for _ in range(15):
            with busy.fork()[0] as fork:
                assert not fork_is_ahead(fork)
        assert writer.returncode is None
        lines = iter(writer.stdout.readline, b"")
        seen = [int(next(lines)) for _ in range(200)]
    assert seen == list(range(200, 20_200, 100))


def fork_is_ahead(fork: Instance) -> bool:
    first, second = (int(fork.files.read(name)) for name in "ab")
    return first - second not in (0, 1)


def test_programs_go_on_and_the_result_says_why_the_fork_has_a_fresh_guest(busy: Instance) -> None:
    with running(busy, "import time; print('up', flush=True); time.sleep(1); print('done')") as process:
        forks = busy.fork(3)
        assert not forks.live
        assert "python3" in forks.reasons[0]
        assert [fork.add() for fork in forks] == [1, 1, 1]
        assert [fork.exec("pgrep -c python3").stdout for fork in forks] == ["0\n"] * 3
        assert process.stdout.read() == b"done\n"
        assert process.wait(5) == 0
    assert busy.add() == 2


def test_a_thread_of_the_guest_goes_on_as_does_its_memory(busy: Instance) -> None:
    busy.start_thread()
    forks = busy.fork()
    assert forks.reasons == ("threads run in it: waits for ever",)
    assert forks[0].exec("cat count.txt").stdout == "1"
    assert (forks[0].add(), busy.add()) == (1, 2)


def test_what_is_open_and_cannot_be_made_anew_is_a_reason(busy: Instance) -> None:
    busy.run("import mmap; box.shared = mmap.mmap(-1, 4096)")
    forks = busy.fork()
    assert not forks.live
    assert "shared memory" in forks.reasons[0]
    busy.run("box.shared[0] = 7")
    with pytest.raises(errors.NotLive):
        busy.fork(live="require")
    assert busy.run("result = box.shared[0]") == 7


def test_a_fresh_guest_is_had_for_the_asking(busy: Instance) -> None:
    with busy.popen("exec sleep 60"):
        forks = busy.fork(live="never")
        assert (forks.live, forks.reasons) == (False, (forking.ASKED,))
        assert forks[0].exec("cat count.txt").stdout == "1"


def test_a_fork_has_changed_nothing_yet_and_can_be_forked_itself(busy: Instance) -> None:
    with busy.popen("exec sleep 60"):
        (fork,) = busy.fork()
        assert fork.diff() == []
        fork.add()
        assert [change.path for change in fork.diff()] == ["/work/count.txt"]
        forks = fork.fork()
        assert forks.live
        assert forks[0].add() == 2
        fork.destroy()
        assert forks[0].add() == 3


def test_a_live_fork_is_to_be_had_again_once_the_programs_have_ended(busy: Instance) -> None:
    with busy.popen("exec sleep 60"):
        assert not busy.fork().live
    until(lambda: busy.exec("pgrep sleep").returncode)
    forks = busy.fork()
    assert forks.live
    assert (forks[0].add(), busy.add()) == (2, 2)


TREE = """
set -e
mkdir -p d/e gone kept; echo one > d/file; echo x > gone/x; echo y > kept/y
ln d/file d/e/again; ln -s ../file d/e/link; ln -s /nowhere dangling
chmod 4711 d/file; chmod 0700 d/e; mkfifo -m 0640 pipe
truncate -s 64M sparse; printf end >> sparse
touch -d @1000000000 d/file d
cd /opt/lower; rm -r removed redone; mkdir redone; echo new > redone/new
"""
ABOUT = """
import os, stat
found = {}
for top, directories, files in os.walk('/work'):
    for name in directories + files:
        path = os.path.join(top, name)
        info = os.lstat(path)
        found[path] = [stat.filemode(info.st_mode), info.st_nlink, info.st_size, info.st_uid, info.st_mtime_ns]
        if stat.S_ISREG(info.st_mode):
            found[path] += [info.st_blocks, {n: os.getxattr(path, n) for n in os.listxattr(path)}]
            if info.st_size < 4096:
                found[path].append(open(path, 'rb').read())
        if stat.S_ISLNK(info.st_mode):
            found[path].append(os.readlink(path))
result = found
"""


class Lower(Busy):
    """Has files to remove and to hide."""

    env = Env(
        run=[
            "cd /opt; mkdir -p lower/removed lower/redone",
            "cd /opt/lower; echo a > removed/a; echo b > redone/b; chmod -R 777 .",
        ]
    )


def test_whatever_a_box_can_make_of_its_files_comes_along() -> None:
    with Lower().spawn() as box:
        assert box.exec(["sh", "-c", TREE]).returncode == 0
        box.run("import os; os.setxattr('/work/d/file', 'user.note', b'kept')")
        box.run("import socket; s = socket.socket(socket.AF_UNIX); s.bind('/work/sock')")
        with busy_with(box):
            (fork,) = box.fork()
        there, here = box.run(ABOUT), fork.run(ABOUT)
        there.pop("/work/sock")
        assert here == there
        assert here["/work/d/file"][-1] == b"one\n"
        assert here["/work/d/file"][6] == {"user.note": b"kept"}
        assert here["/work/sparse"][5] * 512 < 1 << 20
        assert fork.exec("stat -c %i d/file d/e/again | uniq | wc -l").stdout == "1\n"
        assert fork.exec("cd /opt; ls lower lower/redone").stdout == "lower:\nredone\n\nlower/redone:\nnew\n"


@contextlib.contextmanager
def busy_with(box: Instance) -> Iterator[None]:
    with running(box, "import time; print('up', flush=True); time.sleep(600)"):
        yield


class Rooted(Busy):
    """Its own root, who may change /usr."""

    env = Env(user="root")


@pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user's box cannot change what the host's root owns"
)
def test_changes_of_usr_come_along_where_a_box_may_make_them() -> None:
    with Rooted().spawn() as box, busy_with(box):
        assert (
            box.exec(
                "echo mine > /usr/local/mine; rm /usr/bin/true; chown 12:34 /usr/local/mine || :"
            ).returncode
            == 0
        )
        (fork,) = box.fork()
        owner = box.exec("stat -c %u:%g /usr/local/mine").stdout
        assert fork.exec("stat -c %u:%g /usr/local/mine; cat /usr/local/mine").stdout == f"{owner}mine\n"
        assert fork.exec("ls /usr/bin/true").returncode != 0
        assert box.exec("ls /usr/bin/true").returncode != 0


WRITES = """
import sqlite3
db = sqlite3.connect('orders.db', isolation_level=None)
db.execute('pragma journal_mode = ' + __import__('sys').argv[1])
db.execute('create table orders (n integer primary key, twin integer)')
for n in range(1, 1 << 40):
    db.execute('begin')
    db.execute('insert into orders values (?, 0)', (n,))
    db.execute('update orders set twin = n where n = ?', (n,))
    db.execute('commit')
    print(n, flush=True)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_that_a_program_writes_is_whole_in_every_fork(
    busy: Instance, mode: str, tmp_path: Path
) -> None:
    with running(busy, WRITES, mode) as writer:
        for number in range(8):
            (fork,) = busy.fork()
            place = tmp_path / str(number)
            place.mkdir()
            for name in fork.exec("ls").stdout.split():
                if name.startswith("orders.db"):
                    fork.files.download(name, place / name)
            with contextlib.closing(sqlite3.connect(place / "orders.db")) as db:
                assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
                assert db.execute("select count(*) from orders where twin != n").fetchone() == (0,)
            fork.destroy()
        assert writer.returncode is None


def test_a_shell_with_jobs_notices_nothing_and_the_fork_has_none(busy: Instance) -> None:
    terminal = busy.shell(["/bin/bash", "--norc", "-i"])
    try:

        def shown(after: bytes, end: bytes) -> bytes:
            terminal.write(after)
            text = b""
            while end not in text:
                piece = terminal.read()
                assert piece, text
                text += piece
            return text

        shown(b"PS1=; sleep 600 & (sleep 601; :) & echo u''p\n", b"up")
        for _ in range(10):
            (fork,) = busy.fork()
            assert fork.exec("pgrep -c sleep").stdout == "0\n"
            fork.destroy()
        text = shown(b"jobs; echo en''d\n", b"end")
        assert text.count(b"Running") == 2, text
        assert b"Stopped" not in text
        # One in the foreground, which the shell waits for meanwhile.
        terminal.write(b"sleep 1; echo aft''er\n")
        time.sleep(0.2)
        busy.fork()
        assert b"Stopped" not in shown(b"", b"after")
    finally:
        terminal.close()


def test_a_program_that_its_user_has_stopped_stays_so(busy: Instance) -> None:
    with running(busy, "import time; print('up', flush=True); time.sleep(600)") as process:
        process.kill(signal.SIGSTOP)
        until(lambda: "T" in busy.exec("ps -o stat= -C python3").stdout)
        busy.fork()
        assert "T" in busy.exec("ps -o stat= -C python3").stdout
        process.kill(signal.SIGCONT)
        until(lambda: "T" not in busy.exec("ps -o stat= -C python3").stdout)


def test_a_program_in_the_middle_of_starting_another_is_no_obstacle(busy: Instance) -> None:
    """The one that starts cannot be stopped until the other runs (vfork(2)), and does nothing until then."""
    busy.exec("mkfifo nobody-writes")
    code = """
import os
print('up', flush=True)
wait = [(os.POSIX_SPAWN_OPEN, 0, 'nobody-writes', os.O_RDONLY, 0)]
os.waitpid(os.posix_spawn('/bin/true', ['true'], {}, file_actions=wait), 0)
"""
    with running(busy, code) as process:
        until(lambda: "D" in busy.exec("ps -o stat= -C python3").stdout)
        assert not busy.fork().live
        assert process.returncode is None
        assert "D" in busy.exec("ps -o stat= -C python3").stdout
        busy.exec("echo > nobody-writes")
        assert process.wait(10) == 0


ALONE = """
import ctypes, os, threading, time
def write():
    print('up', flush=True)
    a, b = (os.open(name, os.O_WRONLY | os.O_CREAT) for name in 'ab')
    for number in range(1, 1 << 40):
        for fd in (a, b):
            os.pwrite(fd, b'%012d' % number, 0)
threading.Thread(target=write).start()
time.sleep(0.1)
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
"""


def test_a_process_whose_first_thread_has_ended_is_stopped_like_the_others(busy: Instance) -> None:
    with running(busy, ALONE):
        until(lambda: "Z" in busy.exec("ps -o stat= -C python3").stdout)
        until(lambda: int(busy.files.read("b") or 0) > 100)
        for _ in range(10):
            with busy.fork()[0] as fork:
                assert not fork_is_ahead(fork)


WAKES = """
import fcntl, os, signal
fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(0, 10, signal.SIGCONT)  # F_SETSIG: whoever writes there wakes it
fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
print('up', flush=True)
while True:
    pass
"""


def test_a_program_that_has_itself_woken_is_an_error_and_all_goes_on(busy: Instance) -> None:
    busy.exec("dd if=/dev/zero of=big bs=1M count=64 2>/dev/null")
    with running(busy, WAKES) as process:
        over = threading.Event()

        def write() -> None:
            while not over.wait(0.001):
                os.write(process.stdin.fileno(), b"x")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            with pytest.raises(errors.Unavailable, match="python3"):
                busy.fork()
        finally:
            over.set()
            writer.join()
        assert process.returncode is None
        assert busy.add() == 2
    until(lambda: busy.exec("pgrep python3").returncode)
    assert busy.fork().live


class Served(Busy):
    """Has a service that counts its starts."""

    env = Env(
        services=[
            Service(
                "ticker",
                [
                    PYTHON,
                    "-c",
                    "import os, time\nopen('starts', 'a').write('%d\\n' % os.getpid())\ntime.sleep(1e6)",
                ],
                ready="cmd:test -s /work/starts",
                restart="always",
            )
        ]
    )


def test_services_go_on_in_a_busy_origin_and_start_anew_in_its_forks() -> None:
    with Served().spawn() as box:
        until(lambda: len(starts(box)) == 2)  # the first was while the state was made
        with busy_with(box), box.fork()[0] as fork:
            assert len(starts(box)) == 2
            assert box.exec(["pgrep", "-f", "time.sleep.1e6"]).stdout.split() == starts(box)[-1:]
            until(lambda: len(starts(fork)) == 3)
            assert fork.exec(["pgrep", "-f", "time.sleep.1e6"]).stdout.split() == starts(fork)[-1:]
        until(lambda: box.exec(["pgrep", "-f", "time.sleep.600"]).returncode)
        with box.fork()[0] as fork:
            until(lambda: len(starts(fork)) == 3)
            until(lambda: len(starts(box)) == 3)


def starts(box: Instance) -> list[str]:
    return box.exec("cat starts").stdout.split()


class Client(Busy):
    """Opens a program that cannot be forked, as a box with a browser does."""

    def resume(self) -> None:
        self.program: Any = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @action
    def ask(self, word: str) -> list[Any]:
        self.program.stdin.write(f"{word}\n")
        self.program.stdin.flush()
        return [self.program.stdout.readline().strip(), self.program.pid]


def test_a_program_of_the_boxs_own_goes_on_and_resume_opens_another_in_each_fork() -> None:
    with Client().spawn() as box:
        first = box.ask("hello")
        forks = box.fork(2)
        assert forks.reasons == ("programs run in it: cat",)
        assert box.ask("hello") == first
        assert [fork.ask("there")[0] for fork in forks] == ["there", "there"]


def test_commands_and_files_that_come_during_a_copy_wait_for_its_end(busy: Instance) -> None:
    busy.exec("dd if=/dev/urandom of=big bs=1M count=96 2>/dev/null")
    results: list[str] = []
    with running(busy, PAIRS):
        threads = [
            threading.Thread(target=lambda: results.append(busy.exec("echo late > late; echo done").stdout))
            for _ in range(4)
        ]
        forks: list[Instance] = []
        forker = threading.Thread(target=lambda: forks.extend(busy.fork()))
        forker.start()
        for thread in threads:
            thread.start()
        for thread in (forker, *threads):
            thread.join(60)
        assert results == ["done\n"] * 4
        assert busy.files.read("late") == b"late\n"
        with forks[0] as fork:
            assert not fork_is_ahead(fork)


def forking_aside(instance: Instance) -> tuple[threading.Thread, list[BaseException]]:
    """Forks an instance in a thread. Returns it, and where what goes wrong is told."""
    failures: list[BaseException] = []

    def fork() -> None:
        try:
            instance.fork()
        except errors.KiboError as error:
            failures.append(error)

    forker = threading.Thread(target=fork)
    forker.start()
    return forker, failures


def test_an_instance_that_ends_during_a_copy_is_an_error_and_leaves_nothing(busy: Instance) -> None:
    busy.exec("dd if=/dev/zero of=big bs=1M count=200 2>/dev/null")
    with running(busy, PAIRS):
        forker, failures = forking_aside(busy)
        until(lambda: copiers() or failures)
        busy.destroy()
        forker.join(20)
        assert not forker.is_alive()
    assert [type(failure) for failure in failures] == [errors.InstanceEnded]
    until(lambda: not copiers())


def copiers() -> list[int]:
    return [pid for pid, name in leftovers.descendants(os.getpid()).items() if name == "kibo-copy"]


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot signal what the warden has started")
def test_programs_go_on_where_the_process_that_copies_is_killed(busy: Instance) -> None:
    busy.exec("dd if=/dev/zero of=big bs=1M count=300 2>/dev/null")
    with running(busy, PAIRS) as writer:
        forker, failures = forking_aside(busy)
        until(copiers)
        time.sleep(0.02)
        os.kill(copiers()[0], signal.SIGKILL)
        forker.join(20)
        assert [type(failure) for failure in failures] == [errors.Exhausted]
        until(writer.stdout.readline)
        assert busy.add() == 2
        until(lambda: busy.fork().reasons)


def test_a_cancelled_fork_leaves_nothing_and_its_origin_goes_on() -> None:
    async def main() -> None:
        async with aio.spawn(Busy()) as box:
            await box.exec("dd if=/dev/zero of=big bs=1M count=200 2>/dev/null; sleep 600 >/dev/null 2>&1 &")
            with anyio.move_on_after(0.03) as scope:
                await box.fork()
            assert scope.cancelled_caught
            assert await box.add() == 1
            assert (await box.exec("echo fine")).stdout == "fine\n"
            while copiers():
                await anyio.sleep(0.01)
            assert not (await box.fork()).live

    anyio.run(main)


def test_an_ended_instance_cannot_be_forked_however(busy: Instance) -> None:
    busy.destroy()
    for live in ("prefer", "never", "require"):
        with pytest.raises(errors.InstanceEnded):
            busy.fork(live=live)  # type: ignore[arg-type]


def test_an_instance_that_has_ended_by_itself_cannot_be_forked(busy: Instance) -> None:
    with contextlib.suppress(errors.KiboError):
        busy.exec("kill -9 1; sleep 5")
        busy.run("import os; os._exit(1)")
    with pytest.raises(errors.InstanceEnded):
        busy.fork(live="never")


def test_many_forks_while_others_spawn_and_fork() -> None:
    failures: list[BaseException] = []

    def use(number: int) -> None:
        try:
            with Busy().spawn() as box, running(box, PAIRS):
                for _ in range(4):
                    forks = box.fork(3)
                    assert not any(fork_is_ahead(fork) for fork in forks)
                    assert [fork.add() for fork in forks] == [1, 1, 1]
                    for fork in forks:
                        fork.destroy()
                    with Busy().spawn() as other:
                        assert other.fork().live
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_a_full_layer_can_be_copied() -> None:
    class Small(Busy):
        env = Env(limits=Limits(disk_bytes=24 << 20))

    with Small().spawn() as box, busy_with(box):
        box.exec("dd if=/dev/urandom of=big bs=64k 2>/dev/null")
        (fork,) = box.fork()
        assert fork.exec("sha256sum < big").stdout == box.exec("sha256sum < big").stdout
        assert fork.exec("echo more > more").returncode == 0


def test_the_time_that_a_copy_may_take_is_bounded() -> None:
    assert 0 < points.COPY_S < 3600
