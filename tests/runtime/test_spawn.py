"""Instances as forks of a cached state: what they share, what they do not, and how they end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

import leftovers
from kibo import Box, Env, action, aio, wiring
from kibo.box.define import INSTANCE_NAMES
from kibo.model import errors
from kibo.runtime.instance import Instance
from patience import eventually


class Notebook(Box):
    """Keeps values in memory and in files."""

    owner: str = "nobody"

    def launch(self) -> None:
        """Leaves something of each."""
        self.lines = ["launched"]
        self.number = random.random()
        self.file = open("/work/open", "w+")  # noqa: SIM115 (left open on purpose)
        self.file.write("before")
        self.file.flush()
        os.chdir("/tmp")

    @action
    def add(self, line: str) -> list[str]:
        """Add a line, and return all."""
        self.lines.append(line)
        with open("/work/lines", "a") as file:
            file.write(line)
        return self.lines

    @action
    def on_disk(self) -> str:
        """Read what was added."""
        with open("/work/lines") as file:
            return file.read()

    @action
    def dice(self) -> list[float]:
        """Return what launch drew, and a new one."""
        return [self.number, random.random()]

    @action
    def write_open(self, text: str) -> str:
        """Write to the file that launch opened, and return all of it."""
        self.file.write(text)
        self.file.flush()
        with open("/work/open") as file:
            return file.read()

    @action
    def where(self) -> str:
        """Name the working directory."""
        return os.getcwd()

    @action
    def who(self) -> dict[str, Any]:
        """Name what makes a process."""
        return {"pid": os.getpid(), "parent": os.getppid(), "host": os.uname().nodename, "owner": self.owner}

    @action
    def dwell(self, seconds: float) -> str:
        """Take long."""
        time.sleep(seconds)
        return "dwelt"


@pytest.fixture
def pair() -> Iterator[tuple[Instance, Instance]]:
    with Notebook().spawn() as one, Notebook().spawn() as other:
        yield one, other


def test_two_instances_share_what_the_launch_left_and_nothing_after(pair: tuple[Instance, Instance]) -> None:
    one, other = pair
    assert one.add("a") == ["launched", "a"]
    assert other.add("b") == ["launched", "b"]
    assert (one.on_disk(), other.on_disk()) == ("a", "b")


def test_the_state_itself_is_unchanged_by_its_instances(pair: tuple[Instance, Instance]) -> None:
    for instance in pair:
        instance.add("x")
        instance.exec("rm -rf /work/*")
    with Notebook().spawn() as fresh:
        assert fresh.add("c") == ["launched", "c"]
        assert fresh.files.read("open") == b"before"


def test_each_instance_draws_its_own_random_numbers(pair: tuple[Instance, Instance]) -> None:
    (left, one), (right, other) = pair[0].dice(), pair[1].dice()
    assert left == right
    assert one != other


def test_a_file_that_launch_left_open_is_open_and_apart(pair: tuple[Instance, Instance]) -> None:
    one, other = pair
    assert one.write_open("+one") == "before+one"
    assert other.write_open("+other") == "before+other"
    with Notebook().spawn() as third:
        assert third.files.read("open") == b"before"


def test_the_working_directory_of_the_launch_is_kept(pair: tuple[Instance, Instance]) -> None:
    assert pair[0].where() == "/tmp"


def test_an_instance_has_an_identity_of_its_own(pair: tuple[Instance, Instance]) -> None:
    one, other = pair
    assert one.id != other.id
    assert one.who()["pid"] == other.who()["pid"] == 1
    assert repr(one).startswith(f"<Instance {one.id} running: Notebook")


@pytest.mark.parametrize("name", [5, "a\nb", "x" * 201])
def test_a_name_that_is_none_is_refused_and_the_runtime_lives_on(name: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="called"):
        Notebook().spawn(name=name)
    with Notebook().spawn(name="a name") as box:
        assert box.status == "running"


def test_parameters_arrive_and_make_other_states() -> None:
    with Notebook(owner="ada").spawn() as box, Notebook(owner="bo").spawn() as other:
        assert box.who()["owner"] == "ada"
        assert other.who()["owner"] == "bo"
        assert box.dice()[0] != other.dice()[0]


def test_a_context_destroys_its_instance_and_with_it_all_processes() -> None:
    with Notebook().spawn() as box, box.popen("echo on; exec sleep 81") as process:
        process.stdout.readline()
        before = leftovers.descendants(os.getpid())
        box.destroy()
    assert box.status == "ended"
    gone = before.keys() - leftovers.descendants(os.getpid()).keys()
    assert {before[pid] for pid in gone} & {"sh", "sleep"}, before


def test_an_unreferenced_instance_is_destroyed() -> None:
    box = Notebook().spawn()
    session, name = box._conversation.session, box.id
    gone = weakref.ref(box)
    del box
    gc.collect()
    assert gone() is None
    deadline = time.monotonic() + 5
    while any(cell["id"] == name for cell in _cells(session)):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


def test_an_unnamed_instance_lives_until_its_call_returns() -> None:
    assert Notebook().spawn().dwell(0.3) == "dwelt"


def _cells(session: Any) -> list[dict[str, Any]]:
    from kibo.runtime.waiting import Blocking, run

    answer, _ = run(session.ask(Blocking(), "list", {}))
    return list(answer["cells"])


def test_many_threads_spawn_at_once() -> None:
    results: list[list[str]] = []
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for turn in range(5):
                with Notebook().spawn() as box:
                    results.append(box.add(f"{index}.{turn}"))
        except BaseException as error:  # noqa: BLE001 (shown below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(results) == sorted(
        ["launched", f"{index}.{turn}"] for index in range(16) for turn in range(5)
    )


def test_two_hundred_instances_live_at_once_and_all_answer() -> None:
    boxes = [Notebook().spawn() for _ in range(200)]
    try:
        answers = [box.add(str(index)) for index, box in enumerate(boxes)]
        assert answers == [["launched", str(index)] for index in range(200)]
        assert boxes[0].on_disk() == "0"
        assert boxes[199].exec("cat /work/lines").stdout == "199"
    finally:
        for box in boxes:
            box.destroy()


def test_spawning_and_destroying_many_times_leaves_descriptors_and_processes_as_they_were() -> None:
    with Notebook().spawn() as box:
        box.add("x")
    fds, processes = len(os.listdir("/proc/self/fd")), leftovers.descendants(os.getpid()).keys()
    warden = _warden_fds()
    for _ in range(40):
        with Notebook().spawn() as box:
            box.files.write("x", b"x")
            box.exec("true")
            box.diff()
            box.logs()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == fds
    # The last that was made ahead ends when nobody asks for it.
    eventually(lambda: leftovers.descendants(os.getpid()).keys() <= processes)
    deadline = time.monotonic() + 5
    while _warden_fds() > warden + 4:  # of freed control groups some are kept for the next box
        assert time.monotonic() < deadline, (warden, _warden_fds())
        time.sleep(0.05)


def _warden_fds() -> int:
    try:
        return len(os.listdir(f"/proc/{leftovers.warden_of(os.getpid())}/fd"))
    except PermissionError:
        pytest.skip("the warden's descriptors are not this user's to see")


# The user's process forks


def _spawn_in_child() -> str:
    with Notebook(owner="child").spawn() as box:
        return str(box.who()["owner"])


def _report(write: int) -> None:
    os.write(write, _spawn_in_child().encode())
    wiring.runtime().close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_a_runtime_of_its_own_and_leaves_its_parents_alone() -> None:
    with Notebook().spawn() as box:
        box.add("parent")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _report(write)
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() == b"child"
        os.waitpid(pid, 0)
        assert box.add("still") == ["launched", "parent", "still"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_instance_used_in_a_forked_process_is_refused_there_and_unharmed_here() -> None:
    with Notebook().spawn() as box:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                try:
                    box.add("child")
                    os.write(write, b"worked")
                except errors.KiboError as error:
                    os.write(write, error.code.encode())
                box.destroy()
                del box
                gc.collect()
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() in (b"runtime.lost", b"instance.ended", b"state.wrong")
        os.waitpid(pid, 0)
        assert box.add("parent") == ["launched", "parent"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_works_after_kibo_was_used(method: str) -> None:
    with Notebook().spawn() as box:
        box.add("parent")
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        process = context.Process(target=_send_answer, args=(theirs,))
        process.start()
        theirs.close()
        assert ours.poll(30)
        assert ours.recv() == "child"
        ours.close()
        process.join(10)
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # else it stays as long as we do
        assert process.exitcode == 0
        assert box.add("still") == ["launched", "parent", "still"]


def _send_answer(pipe: Any) -> None:
    pipe.send(_spawn_in_child())
    wiring.runtime().close()


PROGRAM = """
import os, sys
from kibo import Box, Env, action

class Counter(Box):
    env = Env(files={"/work/shared": b"both"}, run=["sleep 0.5; echo built >> /work/steps"])
    @action
    def read(self) -> str:
        return open("/work/shared").read() + open("/work/steps").read()

for _ in range(3):
    with Counter().spawn() as box:
        print(box.read())
"""


def test_two_processes_share_one_state_directory_and_build_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    processes = [
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.split() == ["bothbuilt"] * 3, out


# The runtime is lost


def test_a_lost_runtime_is_an_error_and_the_next_spawn_starts_another() -> None:
    box = Notebook().spawn()
    box.add("x")
    os.kill(leftovers.warden_of(os.getpid()), signal.SIGKILL)
    with pytest.raises(errors.RuntimeLost) as caught:
        for _ in range(1000):  # the kernel ends them one after the other
            box.add("y")
    assert "Spawn again" in caught.value.hint
    assert box.status == "ended"
    for use in (lambda: box.exec("true"), lambda: box.files.read("x"), box.logs, box.diff):
        with pytest.raises((errors.RuntimeLost, errors.InstanceEnded)):
            use()
    box.destroy()
    with Notebook().spawn() as fresh:
        assert fresh.add("z") == ["launched", "z"]


def test_a_runtime_lost_during_an_action_is_an_error_at_once() -> None:
    with Notebook().spawn() as box:
        failures: list[BaseException] = []

        def call() -> None:
            try:
                box.dwell(20)
            except errors.KiboError as error:
                failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.2)
        os.kill(leftovers.warden_of(os.getpid()), signal.SIGKILL)
        caller.join(5)
        assert [type(error) for error in failures] == [errors.RuntimeLost]


def test_a_runtime_lost_during_a_command_is_an_error_at_once() -> None:
    with Notebook().spawn() as box:
        failures: list[BaseException] = []

        def call() -> None:
            try:
                box.exec("sleep 20")
            except errors.KiboError as error:
                failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.2)
        os.kill(leftovers.warden_of(os.getpid()), signal.SIGKILL)
        caller.join(5)
        assert [type(error) for error in failures] == [errors.RuntimeLost]


def test_a_killed_keeper_takes_the_runtime_along_and_the_next_spawn_starts_another() -> None:
    with Notebook().spawn() as box:
        os.kill(box._conversation.session._keeper.pid, signal.SIGKILL)
        with pytest.raises(errors.RuntimeLost):
            for _ in range(200):
                box.add("x")
                time.sleep(0.01)
    with Notebook().spawn() as fresh:
        assert fresh.add("z") == ["launched", "z"]


def test_many_threads_that_lose_the_runtime_all_go_on_with_one_new_one() -> None:
    with Notebook().spawn() as box:
        box.add("x")
        os.kill(leftovers.warden_of(os.getpid()), signal.SIGKILL)
    answers: list[list[str]] = []
    failures: list[BaseException] = []

    def work() -> None:
        for _ in range(20):
            try:
                with Notebook().spawn() as fresh:
                    answers.append(fresh.add("z"))
                return
            except errors.RuntimeLost:
                time.sleep(0.05)
            except BaseException as error:  # noqa: BLE001 (shown below)
                failures.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert answers == [["launched", "z"]] * 8
    assert leftovers.warden_of(os.getpid())


class Empty(Box):
    """Has nothing."""


def test_no_action_can_be_hidden_by_what_every_instance_has() -> None:
    for face in (Instance, aio.Instance):
        assert {name for name in dir(face) if not name.startswith("_")} <= INSTANCE_NAMES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a host's user namespaces away")
def test_a_host_without_user_namespaces_is_refused_with_a_remedy(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from kibo import Box, KiboError\n"
        "try:\n    Box().spawn()\nexcept KiboError as error:\n    print(error.code, bool(error.hint))\n"
    )
    without = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", without, "-", sys.executable, script],
        env={**os.environ, "KIBO_HOME": str(tmp_path / "state"), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "host.unsupported True\n", done
    assert leftovers.work_in_progress(tmp_path / "state") == []


def test_an_empty_box_runs_commands() -> None:
    with Box().spawn() as box:
        assert box.exec("echo here").stdout == "here\n"
    with Empty().spawn() as box, pytest.raises(errors.UnknownAction, match="anything"):
        box.anything()


def test_a_box_that_runs_as_its_own_root_is_nobody_outside() -> None:
    class Rooted(Box):
        env = Env(user="root")

        @action
        def uid(self) -> int:
            """Who it is."""
            return os.getuid()

    if os.geteuid() != 0:
        try:
            box = Rooted().spawn()
        except errors.HostUnsupported as error:
            assert error.hint  # noqa: PT017
            return
        box.destroy()
        return
    with Rooted().spawn() as box:
        assert box.uid() == 0
        with box.popen("echo on; read end") as program:
            program.stdout.readline()
            owners = [
                os.stat(f"/proc/{p}").st_uid
                for p, name in leftovers.descendants(os.getpid()).items()
                if name == "sh"
            ]
            assert owners
            assert min(owners) >= 65536
        box.files.write("/usr/local/bin/mine", b"x")
        assert ("added", "/usr/local/bin/mine", 1) in [(c.kind, c.path, c.size) for c in box.diff()]
