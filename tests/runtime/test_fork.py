"""Forks of running instances: what every side has, what none sees of the others, and what stands in the way."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
from kibo import Allow, Box, Env, Service, action, aio
from kibo.model import errors
from kibo.model.ids import DeltaId, InstanceId
from kibo.runtime import forking
from kibo.runtime.attached import list_cells
from kibo.runtime.instance import Instance, conversation_of, spawned_of
from kibo.runtime.memory import memory_of
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime
from patience import eventually
from running_till import serving
from value_boxes import Values

PYTHON = "/usr/bin/python3"


class Counter(Box):
    """Counts, in memory and in a file."""

    def launch(self) -> None:
        self.count = 0
        self.file = open("open.txt", "a+")  # noqa: SIM115
        self.nameless = tempfile.TemporaryFile()  # noqa: SIM115
        self.nameless.write(b"nameless")
        self.nameless.flush()

    @action
    def add(self) -> int:
        self.count += 1
        with open("count.txt", "w") as file:
            file.write(str(self.count))
        self.file.write(f"{self.count} ")
        self.file.flush()
        return self.count

    @action
    def look(self) -> list[str]:
        with open("count.txt") as count, open("open.txt") as log:
            return [count.read(), log.read()]

    @action
    def nameless_content(self) -> str:
        self.nameless.seek(0)
        return self.nameless.read().decode()

    @action
    def draw(self) -> float:
        return random.random()

    @action
    def draw_key(self) -> str:
        """Draw of the generator that keys of TLS come from."""
        import ssl

        return ssl.RAND_bytes(16).hex()

    @action
    def clocks(self) -> tuple[float, float]:
        import time

        return time.time(), time.monotonic()

    @action
    def change_directory(self, path: str) -> None:
        import os

        os.chdir(path)

    @action
    def directory(self) -> str:
        import os

        return os.getcwd()

    @action
    def start_thread(self) -> None:
        threading.Thread(target=threading.Event().wait, name="waits for ever", daemon=True).start()

    @action
    def processes(self) -> int:
        import os

        return sum(name.isdigit() for name in os.listdir("/proc"))

    @action
    def signal_all(self) -> str:
        import os

        try:
            os.kill(-1, 15)
        except ProcessLookupError:
            return "nobody"
        return "somebody"


@pytest.fixture
def counter() -> Iterator[Instance]:
    with Counter().spawn() as instance:
        instance.add()
        yield instance


def test_forks_have_files_and_memory_of_their_origin_and_then_their_own(counter: Instance) -> None:
    first, second = counter.fork(2)
    assert [first.add(), first.add(), second.add(), counter.add()] == [2, 3, 2, 2]
    assert first.look() == ["3", "1 2 3 "]
    assert second.look() == counter.look() == ["2", "1 2 "]


def test_the_result_says_that_a_fork_is_live(counter: Instance) -> None:
    forks = counter.fork(2)
    assert (len(forks), forks.live, forks.reasons) == (2, True, ())


def test_a_fresh_guest_has_the_files_alone(counter: Instance) -> None:
    forks = counter.fork(live="never")
    assert not forks.live
    assert forks.reasons
    assert forks[0].exec("cat count.txt").stdout == "1"
    assert forks[0].add() == 1
    assert counter.add() == 2


def test_a_fork_of_a_fork_and_its_origin_go_on_after_it(counter: Instance) -> None:
    (child,) = counter.fork()
    child.add()
    (grandchild,) = child.fork()
    assert [grandchild.add(), child.add(), counter.add()] == [3, 3, 2]
    child.destroy()
    assert grandchild.add() == 4
    counter.destroy()
    assert grandchild.look() == ["4", "1 2 3 4 "]


def test_no_side_sees_or_signals_the_processes_of_another(counter: Instance) -> None:
    forks = counter.fork(3)
    assert counter.processes() == 1
    assert counter.signal_all() == "nobody"
    assert [fork.add() for fork in forks] == [2, 2, 2]
    assert [fork.processes() for fork in forks] == [1, 1, 1]


def test_an_origin_goes_on_in_its_own_process_once_its_forks_have_ended(counter: Instance) -> None:
    for number in range(2, 42):  # more than the kernel nests
        (fork,) = counter.fork()
        assert fork.add() == number
        fork.destroy()
        assert counter.add() == number
    assert counter.look()[0] == "41"


def test_layers_do_not_pile_up_in_an_origin_whose_forks_have_ended(counter: Instance) -> None:
    def depth() -> int:
        mounts = counter.exec("cat /proc/self/mountinfo").stdout.splitlines()
        root = next(mount for mount in mounts if mount.split()[4] == "/")
        # One option a layer, or on older kernels one of all.
        return sum(len(layers.split(":")) for layers in re.findall(r"lowerdir\+?=([^,]*)", root))

    before = depth()
    for number in range(5):
        (fork,) = counter.fork()
        fork.files.write("/work/forks-own", "")
        fork.destroy()
        counter.files.write(f"/work/after-{number}", "")
    assert depth() == before
    there = counter.exec("ls /work").stdout.split()
    assert [name for name in there if name not in ("open.txt", "count.txt")] == [
        f"after-{number}" for number in range(5)
    ]
    (fork,) = counter.fork()
    counter.files.write("/work/while-it-lives", "")
    assert depth() == before + 1
    assert "while-it-lives" not in fork.exec("ls /work").stdout


def test_past_what_the_kernel_nests_a_fork_is_a_fresh_guest_with_the_same_files(counter: Instance) -> None:
    line = [counter]
    for _ in range(40):
        forks = line[-1].fork()
        line += forks
        if not forks.live:
            break
        line[-1].add()
    assert not forks.live
    assert len(line) > 10
    assert line[-1].exec("cat count.txt").stdout == line[-2].look()[0]
    with pytest.raises(errors.NotLive):
        line[-2].fork(live="require")
    assert line[-2].add() == int(line[-1].exec("cat count.txt").stdout) + 1
    for instance in reversed(line[1:]):
        instance.destroy()


def test_commands_files_and_changes_work_on_a_forked_origin_before_its_next_action(counter: Instance) -> None:
    forks = counter.fork()
    assert counter.exec("cat count.txt").stdout == "1"
    assert counter.files.read("count.txt") == b"1"
    assert [change.path for change in counter.diff()] == ["/work/count.txt", "/work/open.txt"]
    # What was open for writing is opened so again, which copies it up.
    assert [change.path for change in forks[0].diff()] == ["/work/open.txt"]
    counter.files.write("more.txt", "x")
    forks[0].files.write("count.txt", "7")
    assert [change.path for change in counter.diff()] == [
        "/work/count.txt",
        "/work/more.txt",
        "/work/open.txt",
    ]
    assert forks[0].diff()[0].path == "/work/count.txt"
    forks[0].destroy()


def test_what_an_origin_printed_is_still_in_its_log(counter: Instance) -> None:
    forks = counter.fork()
    counter.add()
    assert counter.status == "running"
    assert counter.logs() == forks[0].logs() == ""


def test_random_numbers_differ_in_every_fork(counter: Instance) -> None:
    forks = counter.fork(8)
    assert len({instance.draw() for instance in (counter, *forks)}) == 9


@pytest.mark.parametrize("of", ["origin", "state"])
def test_keys_of_tls_differ_in_every_fork(of: str) -> None:
    class Signer(Counter):
        def launch(self) -> None:
            super().launch()
            self.draw_key()  # the generator is there from now on

    with Signer().spawn() as one, Signer().spawn() as two:
        boxes = [one, two] if of == "state" else [one, *one.fork(4), *one.fork(4)]
        assert len({box.draw_key() for box in boxes}) == len(boxes)


def test_clocks_of_a_fork_are_the_hosts_however_long_its_origin_was_sealed(counter: Instance) -> None:
    (fork,) = counter.fork()  # the origin stays sealed until it is used
    for box in (fork, counter):
        before = time.time(), time.monotonic()
        seen = box.clocks()
        after = time.time(), time.monotonic()
        assert before[0] <= seen[0] <= after[0]
        assert before[1] <= seen[1] <= after[1]


def test_a_file_without_a_name_comes_along_with_its_content(counter: Instance) -> None:
    (fork,) = counter.fork()
    assert fork.nameless_content() == counter.nameless_content() == "nameless"


#: Tries for a lock that the guest may have, as another program of the box.
TRY = """
import fcntl, sys
with open("locked", "r+") as file:
    try:
        (fcntl.flock if sys.argv[1] == "FLOCK" else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free")
    except BlockingIOError:
        print("held")
"""


class Locker(Box):
    """Holds a lock, through a descriptor and a copy of it."""

    @action
    def lock(self, kind: str, exclusive: bool) -> None:
        import os

        from kibo.runtime.openfiles import Lock

        self.file = open("locked", "w+")  # noqa: SIM115
        self.copy = os.dup(self.file.fileno())
        Lock(kind, exclusive, "", 0, 0 if kind == "FLOCK" else 10).take(self.file.fileno())

    @action
    def unlock(self) -> None:
        import os

        self.file.close()
        os.close(self.copy)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", ["FLOCK", "POSIX", "OFDLCK"])
def test_a_lock_on_a_file_is_held_on_every_side_until_that_side_lets_go(kind: str, exclusive: bool) -> None:
    with Locker().spawn() as box:
        box.lock(kind, exclusive)
        forks = box.fork(2)
        assert forks.live
        sides = [box, *forks, *forks[0].fork()]
        look = [PYTHON, "-c", TRY, kind]
        assert [side.exec(look).stdout for side in sides] == ["held\n"] * 4
        for number, side in enumerate(sides):
            side.unlock()
            assert side.exec(look).stdout == "free\n"
            assert [other.exec(look).stdout for other in sides[number + 1 :]] == ["held\n"] * (3 - number)


class SharedLocker(Box):
    """Holds a lock on a file of the host's ``/usr``, which is one file for all boxes."""

    @action
    def lock(self, kind: str) -> None:
        from kibo.runtime.openfiles import Lock

        self.file = open("/usr/bin/env", "rb")  # noqa: SIM115
        Lock(kind, kind == "FLOCK", "", 0, 0).take(self.file.fileno())

    @action(effect="read")
    def holds(self) -> bool:
        return bool(getattr(self, "file", None)) and "lock:" in _fdinfo(self.file.fileno())

    @action
    def unlock(self) -> None:
        self.file.close()


def _fdinfo(fd: int) -> str:
    from pathlib import Path

    return Path(f"/proc/self/fdinfo/{fd}").read_text()


@pytest.mark.parametrize("kind", ["FLOCK", "POSIX"])
def test_a_lock_on_a_file_that_all_boxes_share_stays_with_the_origin_and_its_forks_are_not_live(
    kind: str,
) -> None:
    with SharedLocker().spawn() as box:
        box.lock(kind)
        with pytest.raises(errors.NotLive) as refused:
            box.fork(live="require")
        (reason,) = refused.value.details["reasons"]
        assert reason == "it has a lock on a file that all boxes share (/usr/bin/env)"
        assert box.holds()
        forks = box.fork(2)
        assert (forks.live, forks.reasons) == (False, (reason,))
        assert [side.holds() for side in (box, *forks)] == [True, False, False]
        box.unlock()
        assert box.fork(live="require").live


class Ledger(Box):
    """Keeps a database open."""

    @action
    def begin(self, mode: str) -> None:
        import sqlite3

        self.database = sqlite3.connect("/work/ledger.db", isolation_level=None)
        self.database.execute(f"PRAGMA journal_mode={mode}")
        self.database.execute("CREATE TABLE lines (line)")
        self.database.execute("INSERT INTO lines VALUES ('before')")
        self.database.execute("BEGIN IMMEDIATE")
        self.database.execute("INSERT INTO lines VALUES ('open')")

    @action
    def commit(self, line: str) -> None:
        self.database.execute("INSERT INTO lines VALUES (?)", (line,))
        self.database.execute("COMMIT")


#: Another program of the box: writes a line, reads all, and looks whether the database is whole.
WRITE = """
import sqlite3
with sqlite3.connect("/work/ledger.db", timeout=0) as database:
    try:
        database.execute("INSERT INTO lines VALUES ('other')")
    except sqlite3.OperationalError as error:
        print(error)
    print(*(row[0] for row in database.execute("SELECT line FROM lines")))
    print(*database.execute("PRAGMA integrity_check").fetchone())
"""


@pytest.mark.parametrize("in_branch", [False, True])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_that_the_guest_has_open_in_a_transaction(mode: str, in_branch: bool) -> None:
    with kibo.branch() as main:
        box = main.spawn(Ledger()) if in_branch else Ledger().spawn()
        box.begin(mode)
        if in_branch:
            forked = main.fork(2)
            forks, live = [each[box] for each in forked], forked[0].live
        else:
            forks = box.fork(2)
            live = forks.live
        write = [PYTHON, "-c", WRITE]
        # The log of SQLite's newer mode has an index in shared memory, which cannot be forked.
        assert live == (mode == "delete")
        for name, side in zip("ab", forks, strict=True):
            if live:
                assert side.exec(write).stdout == "database is locked\nbefore\nok\n"
                side.commit(name)
            rest = f"before open {name} other" if live else "before other"
            assert side.exec(write).stdout == f"{rest}\nok\n"
        assert box.exec(write).stdout == "database is locked\nbefore\nok\n"
        box.commit("mine")
        assert box.exec(write).stdout == "before open mine other\nok\n"
        box.destroy()


def test_the_working_directory_comes_along(counter: Instance) -> None:
    counter.change_directory("/tmp")
    (fork,) = counter.fork()
    assert fork.directory() == counter.directory() == "/tmp"


def test_a_thread_stands_in_the_way_and_is_named(counter: Instance) -> None:
    counter.start_thread()
    with pytest.raises(errors.NotLive, match="waits for ever"):
        counter.fork(live="require")
    assert counter.add() == 2


def test_a_program_that_runs_stands_in_the_way_and_goes_on(counter: Instance) -> None:
    with counter.popen("echo up; exec sleep 60") as process:
        assert process.stdout.read(3) == b"up\n"
        # What has said "up" may still count as being started, too, and it may not have become `sleep` yet.
        with pytest.raises(errors.NotLive, match=r"run in it: .*\b(sh|sleep)\b") as caught:
            counter.fork(live="require")
        assert caught.value.details["reasons"]
        assert process.returncode is None
        assert counter.add() == 2
    assert counter.exec("true").returncode == 0
    assert counter.fork()[0].add() == 3


def test_a_command_that_was_just_ordered_is_not_lost_to_a_fork(counter: Instance) -> None:
    for _ in range(10):
        with counter.popen("echo here") as process:
            counter.fork()
            assert process.stdout.read() == b"here\n"
            assert process.wait(10) == 0
        counter.add()


def test_suspend_is_called_where_it_helps_and_resume_follows_on_every_side() -> None:
    class Threaded(Box):
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

    with Threaded().spawn() as box:
        forks = box.fork(2)
        assert forks.live
        assert [instance.threads_run() for instance in (box, *forks)] == [True, True, True]


def test_an_ended_instance_cannot_be_forked(counter: Instance) -> None:
    counter.destroy()
    with pytest.raises(errors.InstanceEnded):
        counter.fork()


@pytest.mark.parametrize("n", [0, -1, 10_001, "2", 1.0, True])
def test_a_number_of_forks_that_makes_no_sense_is_refused(counter: Instance, n: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        counter.fork(n)
    with pytest.raises(errors.InvalidInput, match="live"):
        counter.fork(1, live="yes")  # type: ignore[arg-type]
    assert counter.add() == 2


def test_a_fork_in_the_middle_of_a_call_waits_for_its_end(counter: Instance) -> None:
    class Slow(Box):
        @action
        def rest(self) -> float:
            import time

            time.sleep(0.3)
            return time.monotonic()

    with Slow().spawn() as slow:
        ends: list[float] = []
        thread = threading.Thread(target=lambda: ends.append(slow.rest()))
        thread.start()
        while not slow._conversation.turn._lock.locked():  # type: ignore[attr-defined]
            pass
        slow.fork()
        assert ends or not thread.join(5)
        assert ends


def test_a_hundred_forks_all_answer(counter: Instance) -> None:
    forks = counter.fork(100)
    assert [fork.add() for fork in forks] == [2] * 100


def test_a_sealed_layer_cannot_be_written_by_a_descriptor_that_was_kept() -> None:
    class Keeper(Box):
        def launch(self) -> None:
            self.ready = True

        @action
        def keep(self) -> None:
            import os

            from kibo.runtime.openfiles import OpenFiles

            self.kept = os.open("kept.txt", os.O_RDWR | os.O_CREAT)
            remember = OpenFiles._remember

            def forgetful(files: OpenFiles, fd: int) -> str:
                return "" if fd == self.kept else remember(files, fd)

            OpenFiles._remember = forgetful  # type: ignore[method-assign]

        @action
        def write(self) -> str:
            import os

            os.pwrite(self.kept, b"written", 0)
            with open("kept.txt") as file:
                return file.read()

    with Keeper().spawn() as box:
        box.keep()
        with pytest.raises(errors.NotLive, match="keeps a file open"):
            box.fork(live="require")
        assert box.write() == "written"


class Heavy(Box):
    """Has much in memory."""

    def launch(self) -> None:
        self.load = bytearray(os.urandom(1 << 20)) * 64

    @action
    def change(self) -> int:
        """Write to all of it."""
        self.load[:: 1 << 10] = bytes(len(self.load) >> 10)
        return os.getpid()


def test_what_forks_share_with_their_origin_is_accounted_for_once() -> None:
    with Heavy().spawn() as origin:
        forks = [origin, *origin.fork(3, live="require")]
        for each in forks:
            assert each.exec("true").returncode == 0

        def memory() -> list[int]:
            cells = {cell.id: cell for cell in list_cells(runtime().home)}
            found = [cells[each.id].session.process_of(each.id) for each in forks]
            return [memory_of(pid) or 0 for pid in found]

        together = sum(memory())
        assert together < 1.5 * (64 << 20), "four times the same 64 MiB"
        forks[1].change()
        grown = memory()
        assert grown[1] > 64 << 20, "its own now"
        assert sum(grown) - together > 32 << 20


def test_the_asynchronous_face_forks_too() -> None:
    async def main() -> list[int]:
        async with aio.spawn(Counter()) as counter:
            await counter.add()
            forks = await counter.fork(2)
            results = [await fork.add() for fork in forks] + [await counter.add()]
            for fork in forks:
                await fork.destroy()
            return results

    assert anyio.run(main) == [2, 2, 2]


@pytest.mark.parametrize("name", ["kibo-nursery", "kibo-maps"])
def test_forks_go_on_when_a_process_that_writes_their_id_maps_was_killed(
    counter: Instance, name: str
) -> None:
    counter.fork(2)
    for pid in running(name):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not running(name))
    (fork,) = counter.fork(1, live="require")
    assert fork.add() == counter.add()
    (fork,) = fork.fork(1, live="require")
    assert fork.add() == counter.add()


def running(name: str) -> list[int]:
    """Processes of this one's runtime that are called so."""
    mine = str(os.getpid())
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            told = status.read_text()
            if (
                told.startswith(f"Name:\t{name}\n")
                and "\nState:\tZ" not in told
                and mine in ancestors(status)
            ):
                found.append(int(status.parent.name))
    return found


def ancestors(status: Path) -> Iterator[str]:
    pid = status.parent.name
    while pid != "0":
        pid = Path(f"/proc/{pid}/status").read_text().split("PPid:\t")[1].split("\n")[0]
        yield pid


def test_limits_of_processes_hold_in_forks_and_cannot_be_raised(counter: Instance) -> None:
    (fork,) = counter.fork()
    for instance in (counter, fork):
        assert instance.exec(["bash", "-c", "ulimit -S -u"]).stdout == "1024\n"
        assert instance.exec(["bash", "-c", "ulimit -u 4096"]).returncode != 0


@pytest.mark.parametrize("awaited", [0, 1, 2, 3])
@pytest.mark.parametrize("in_branch", [False, True])
def test_forks_that_are_given_up_on_their_way_disturb_nobody(awaited: int, in_branch: bool) -> None:
    async def give_up(instance: Instance) -> None:
        """Does what a cancelled fork does: some have answered, the others are on their way."""
        spawned = spawned_of(instance)
        point = await forking.take(Blocking(), spawned, conversation_of(instance))
        session = spawned.states.session
        begun = []
        for _ in range(3):
            upper = DeltaId(spawned.upper).beside() if in_branch else ""
            name = InstanceId.new()
            order = {"id": name, "upper": upper, "source": point.cell}
            begun.append((name, session.begin("fork", order)))
        for name, channel in begun[:awaited]:
            await session.finish(Blocking(), channel, name, 10)
        for name, channel in begun:
            channel.close()
            session.forget(name)
        forking.drop(spawned, point)

    with kibo.branch() as main:
        values = main.spawn(Values()) if in_branch else Values().spawn()
        for turn in range(3):
            run(give_up(values))
            values.put("a", turn)
            (fork,) = values.fork(1) if not in_branch else (main.fork(1)[0][values],)
            assert (fork.get("a"), values.get("a")) == (turn, turn)
        values.destroy()


def test_a_program_that_guards_its_memory_is_forked_and_guards_it_still() -> None:
    class Guarded(Box):
        """Forbids others to look at it."""

        @action
        def guard(self) -> None:
            """Forbid it."""
            ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)

        @action
        def guarded(self) -> bool:
            """Tell whether it does."""
            return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0

    with Guarded().spawn() as box:
        assert not box.guarded()
        box.guard()
        (fork,) = box.fork(live="require")
        assert fork.guarded()
        fork.destroy()
        assert box.guarded()


FORKS = 3
MEET = "import urllib.request; urllib.request.urlopen('http://meeting.example/')"

SERVICE = f"""
import http.server, os
if os.path.exists("/work/meet"):
    {MEET}
http.server.HTTPServer(("127.0.0.1", 8080), http.server.BaseHTTPRequestHandler).serve_forever()
"""


class Meeting:
    """A server that answers nobody before `FORKS` have come."""

    def __init__(self) -> None:
        meeting, self.come, guard, all_there = self, 0, threading.Lock(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with guard:
                    meeting.come += 1
                    if meeting.come == FORKS:
                        all_there.set()
                self.send_response(200 if all_there.wait(20) else 408)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    held = Meeting()
    with serving(held.server):
        yield held


def test_forks_resume_at_the_same_time(meeting: Meeting) -> None:
    class Visitor(Box):
        """Meets the others when it is resumed."""

        egress = [Allow("meeting.example", to=meeting.address)]

        def launch(self) -> None:
            self.meets = False

        def resume(self) -> None:
            """Meets them, once it was told to."""
            if self.meets:
                exec(MEET)

        @action
        def meet(self) -> None:
            """Have it do so."""
            self.meets = True

    with Visitor().spawn() as box:
        box.meet()
        for fork in box.fork(FORKS, live="require"):
            fork.destroy()


def test_services_of_forks_start_at_the_same_time(meeting: Meeting) -> None:
    class Visitor(Box):
        """Has a service that meets the others before it is ready, once there is somebody to meet."""

        egress = [Allow("meeting.example", to=meeting.address)]
        env = Env(
            services=[
                Service("visit", ["/usr/bin/python3", "-c", SERVICE], ready="tcp:8080", start_timeout_s=30.0)
            ]
        )

        @action
        def meet(self) -> None:
            """Have it do so from the next time that it starts."""
            Path("/work/meet").touch()

    with Visitor().spawn() as box:
        box.meet()
        for fork in box.fork(FORKS):
            fork.destroy()
