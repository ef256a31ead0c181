"""One suite over every adapter of control groups: the machine's own, and a verified fake."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.kernel_tree import POINT, KernelTree
from kibo.model.errors import HostUnsupported
from kibo.runtime.cgroups import CgroupLimits, Cgroups, open_cgroups, remove_places
from kibo.runtime.cgroups.files import KernelFiles, hierarchies
from kibo.runtime.cgroups.none import NoCgroups
from kibo.runtime.cgroups.v1 import V1Cgroups
from kibo.runtime.cgroups.v2 import V2Cgroups

pytestmark = pytest.mark.contract

MIB = 1024 * 1024
FILES = KernelFiles()


def real_v1(session: str) -> Cgroups:
    found = V1Cgroups.find(session, FILES)
    if found is None or not found.available()["memory"]:
        pytest.skip("this host gives this user no cgroup v1 memory controller")
    return found


def real_v2(session: str) -> Cgroups:
    unified = hierarchies(FILES).get("")
    if unified is None or not FILES.writable(unified.own):
        pytest.skip("this host gives this user no cgroup v2 hierarchy")
    found = V2Cgroups.find(session, FILES)
    if found is not None and found.available()["memory"]:
        return found
    # A hybrid host: the hierarchy is there and its life cycle is real, with no controllers to limit by.
    return V2Cgroups(session, unified.own, frozenset(), FILES)


def fake_v2(session: str) -> Cgroups:
    found = V2Cgroups.find(session, KernelTree())
    assert found is not None
    return found


def none(session: str) -> Cgroups:
    return NoCgroups()


@pytest.fixture(params=[real_v1, real_v2, fake_v2, none], ids=lambda make: make.__name__)
def cgroups(request: pytest.FixtureRequest) -> Iterator[Cgroups]:
    made = request.param(f"test-{uuid.uuid4().hex[:8]}")
    yield made
    assert made.remove_session()


def settable(cgroups: Cgroups) -> CgroupLimits:
    """Every limit that this adapter can set here."""
    there = cgroups.available()
    return CgroupLimits(
        memory_bytes=64 * MIB if there["memory"] else None,
        cpus=0.5 if there["cpus"] else None,
        pids=16 if there["pids"] else None,
    )


def test_every_limit_is_said_to_be_there_or_not(cgroups: Cgroups) -> None:
    assert set(cgroups.available()) == {"memory", "swap", "cpus", "pids"}


def test_what_is_missing_comes_with_a_remedy(cgroups: Cgroups) -> None:
    assert bool(cgroups.remedy) == (not all(cgroups.available().values()))


def test_a_limit_that_cannot_be_set_is_refused_and_nothing_is_made(cgroups: Cgroups) -> None:
    missing = [name for name, there in cgroups.available().items() if not there and name != "swap"]
    if not missing:
        pytest.skip("everything can be limited here")
    asked = CgroupLimits(memory_bytes=64 * MIB, cpus=1.0, pids=10)
    with pytest.raises(HostUnsupported) as caught:
        cgroups.create("refused", asked)
    assert sorted(caught.value.details["missing"]) == sorted(missing)
    assert caught.value.hint == cgroups.remedy


def test_what_was_never_asked_for_needs_no_controller(cgroups: Cgroups) -> None:
    handle = cgroups.create("free", CgroupLimits())
    assert handle.oom_events() == 0
    assert handle.remove()


def test_a_group_is_made_with_its_limits_and_removed(cgroups: Cgroups) -> None:
    handle = cgroups.create("one", settable(cgroups))
    assert handle.name == "one"
    assert (handle.oom_events(), handle.pids_refused()) == (0, 0)
    assert handle.memory_bytes() >= 0
    assert handle.remove()
    assert handle.attach_fds == ()


def test_two_groups_of_one_name_are_an_error_that_leaves_the_first(cgroups: Cgroups) -> None:
    if cgroups.version == 0:
        pytest.skip("without groups there are no names")
    limits = settable(cgroups) if cgroups.version == 1 else CgroupLimits()
    first = cgroups.create("twice", limits)
    with pytest.raises(FileExistsError):
        cgroups.create("twice", limits)
    if cgroups.version == 1:
        assert first.memory_bytes() >= 0
    assert first.remove()


def test_removing_twice_is_as_good_as_once(cgroups: Cgroups) -> None:
    handle = cgroups.create("again", settable(cgroups))
    assert handle.remove()
    assert handle.remove()


def test_no_descriptor_stays_open(cgroups: Cgroups) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        cgroups.create(f"n{number}", settable(cgroups)).remove()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_session_is_removed_by_its_name_alone(cgroups: Cgroups) -> None:
    handles = [cgroups.create(f"n{number}", settable(cgroups)) for number in range(3)]
    assert cgroups.remove_session()
    for handle in handles:
        assert handle.remove()


def test_the_groups_of_a_session_that_ended_are_removed_from_any_other_group(real: Cgroups) -> None:
    handle = real.create("left", settable(real))
    places = real.places()
    assert places
    pid = os.fork()
    if pid == 0:
        # From a group of its own, where `open_cgroups` would look in the wrong place.
        other = real.create("elsewhere", settable(real))
        for fd in other.attach_fds:
            os.write(fd, b"0")
        os._exit(0 if not remove_places(places) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "it removed the group that it was in itself"
    end = time.monotonic() + 2
    while not remove_places(places) and time.monotonic() < end:
        time.sleep(0.005)
    assert not any(Path(place).exists() for place in places)
    assert handle.remove()


def test_a_group_is_made_although_the_session_was_swept_meanwhile(cgroups: Cgroups) -> None:
    assert cgroups.create("before", settable(cgroups)).remove()
    assert cgroups.remove_session()
    assert cgroups.create("after", settable(cgroups)).remove()


# What only real processes can show, on each real hierarchy of this machine.


@pytest.fixture(params=[real_v1, real_v2], ids=lambda make: make.__name__)
def real(request: pytest.FixtureRequest) -> Iterator[Cgroups]:
    made = request.param(f"test-{uuid.uuid4().hex[:8]}")
    yield made
    assert made.remove_session()


def start(body: str, fds: tuple[int, ...] = ()) -> int:
    """Starts a Python program that first joins the group by its descriptors."""
    joins = "import os\n" + "".join(f"os.write({fd}, b'0')\n" for fd in fds)
    pid = os.fork()
    if pid == 0:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execv("/usr/bin/python3", ["python3", "-c", joins + body])
    return pid


def removed(handle: object, timeout_s: float = 2.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if handle.remove():  # type: ignore[attr-defined]
            return True
        time.sleep(0.005)
    return False


def wait_until_joined(pid: int, name: str, hierarchies: int) -> None:
    end = time.monotonic() + 5
    while groups_of(pid).count(f"/{name}") < hierarchies:
        assert time.monotonic() < end, groups_of(pid)
        time.sleep(0.005)


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_a_process_joins_by_itself_and_is_counted(real: Cgroups) -> None:
    handle = real.create("joined", settable(real))
    pid = start("import time; time.sleep(60)", handle.attach_fds)
    wait_until_joined(pid, "joined", len(handle.attach_fds))
    assert not handle.remove()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert removed(handle)


def test_a_process_is_moved_in_from_outside(real: Cgroups) -> None:
    handle = real.create("moved", settable(real))
    pid = start("import time; time.sleep(60)")
    handle.attach(pid)
    assert groups_of(pid).count("/moved") == len(handle.attach_fds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert removed(handle)


def test_kill_ends_every_process_inside(real: Cgroups) -> None:
    handle = real.create("killed", settable(real))
    pid = start("import os, time; [os.fork() for _ in range(2)]; time.sleep(60)", handle.attach_fds)
    wait_until_joined(pid, "killed", len(handle.attach_fds))
    handle.kill()
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert removed(handle)


def test_memory_beyond_the_limit_kills_inside_and_is_counted(real: Cgroups) -> None:
    if not real.available()["memory"]:
        pytest.skip("no memory controller here")
    handle = real.create("hungry", CgroupLimits(memory_bytes=32 * MIB))
    pid = start("x = bytearray(256 * 1024 * 1024)", handle.attach_fds)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert handle.oom_events() >= 1
    assert removed(handle)


def test_processes_beyond_the_limit_are_refused_and_counted(real: Cgroups) -> None:
    if not real.available()["pids"]:
        pytest.skip("no pids controller here")
    handle = real.create("forks", CgroupLimits(pids=8))
    program = """
import time
for _ in range(50):
    try:
        if os.fork() == 0:
            time.sleep(30)
    except BlockingIOError:
        os._exit(9)
"""
    pid = start(program, handle.attach_fds)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert handle.pids_refused() >= 1
    handle.kill()
    assert removed(handle)


def test_processor_time_beyond_the_quota_is_not_given(real: Cgroups) -> None:
    if not real.available()["cpus"]:
        pytest.skip("no cpu controller here")
    handle = real.create("slow", CgroupLimits(cpus=0.1))
    pid = start("import time; e = time.monotonic() + 1\nwhile time.monotonic() < e: pass", handle.attach_fds)
    _, _, usage = os.wait4(pid, 0)
    # 0.1 s of the quota, a period's slack, and the interpreter's start.
    assert usage.ru_utime + usage.ru_stime < 0.35
    assert removed(handle)


def test_a_process_is_born_in_a_v2_group() -> None:
    cgroups = real_v2(f"test-{uuid.uuid4().hex[:8]}")
    handle = cgroups.create("born", settable(cgroups))
    assert handle.clone_fd is not None
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    # set_tid_size, cgroup; CLONE_INTO_CGROUP | CLONE_VFORK keeps the raw clone simple.
    arguments = struct.pack("=11Q", 0x200000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, handle.clone_fd)
    pid = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, len(arguments))
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    assert pid > 0
    assert "/born" in groups_of(pid)
    handle.kill()
    os.waitpid(pid, 0)
    assert removed(handle)
    assert cgroups.remove_session()


# Which adapter, and where: over made-up trees.


def test_a_process_at_the_root_of_the_hierarchy_gets_groups_below_it() -> None:
    tree = KernelTree("/")
    cgroups = open_cgroups("s", files=tree)
    assert cgroups.version == 2
    assert all(cgroups.available().values())
    cgroups.create("i", CgroupLimits(memory_bytes=10 * MIB + 1, pids=7, cpus=1.5))
    values = tree.tree[f"{POINT}/kibo-s/i"].values
    assert values == {
        "memory.max": str(10 * MIB), "memory.swap.max": "0", "pids.max": "7", "cpu.max": "150000 100000",
    }  # fmt: skip


def test_the_group_of_a_user_session_is_found_above_one_that_holds_processes() -> None:
    tree = KernelTree(
        "/user.slice/user@1000.service/app.slice/shell.scope", writable="/user.slice/user@1000.service"
    )
    for path in ("", "/user.slice", "/user.slice/user@1000.service"):
        tree._hand_on(
            f"{POINT}{path}/cgroup.subtree_control", tree.tree[f"{POINT}{path}"], "+memory +pids +cpu"
        )
    cgroups = open_cgroups("s", files=tree)
    assert cgroups.version == 2
    cgroups.create("i", CgroupLimits(memory_bytes=10 * MIB))
    assert f"{POINT}/user.slice/user@1000.service/app.slice/kibo-s/i" in tree.tree


def test_a_user_whose_session_was_delegated_nothing_is_told_how_to_be() -> None:
    tree = KernelTree("/user.slice/session-1.scope", writable="/nowhere")
    cgroups = open_cgroups("s", files=tree)
    assert cgroups.version == 0
    with pytest.raises(HostUnsupported) as caught:
        cgroups.create("i", CgroupLimits(memory_bytes=10 * MIB))
    assert "Delegate=yes" in caught.value.hint


def test_a_group_that_holds_processes_cannot_hand_on_what_it_does_not_yet() -> None:
    tree = KernelTree("/box")
    tree.tree[POINT].handed_on = {"memory"}
    tree.tree[f"{POINT}/box"].controllers = frozenset({"memory"})
    # The root is Kibo's to use here, so groups go beside the process's own.
    cgroups = open_cgroups("s", files=tree)
    cgroups.create("i", CgroupLimits(memory_bytes=10 * MIB, pids=5))
    assert f"{POINT}/kibo-s/i" in tree.tree


def test_a_kernel_without_swap_is_not_asked_to_limit_it() -> None:
    tree = KernelTree("/", swap=False)
    open_cgroups("s", files=tree).create("i", CgroupLimits(memory_bytes=10 * MIB))
    assert "memory.swap.max" not in tree.tree[f"{POINT}/kibo-s/i"].values


def test_fewer_processors_than_the_kernel_can_count_become_its_least_quota() -> None:
    tree = KernelTree("/")
    open_cgroups("s", files=tree).create("i", CgroupLimits(cpus=0.001))
    assert tree.tree[f"{POINT}/kibo-s/i"].values["cpu.max"] == "1000 100000"


def test_the_fake_refuses_what_the_kernel_refuses() -> None:
    tree = KernelTree("/")
    tree.make(f"{POINT}/a")
    with pytest.raises(OSError, match="No such file"):
        tree.write(f"{POINT}/a/memory.max", "1")  # not handed on
    with pytest.raises(OSError, match="Invalid argument"):
        tree.write(f"{POINT}/cgroup.subtree_control", "memory")
    tree.write(f"{POINT}/cgroup.subtree_control", "+memory")
    tree.write(f"{POINT}/a/memory.max", "8192")
    tree.write(f"{POINT}/a/cgroup.procs", "77")
    with pytest.raises(OSError, match="busy"):
        tree.write(f"{POINT}/a/cgroup.subtree_control", "+memory")
    with pytest.raises(OSError, match="busy"):
        tree.remove(f"{POINT}/a")
