"""After ``kill -9`` of whomever, at whatever moment, nothing is left: no process, group, mount, namespace or file."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernel_namespaces
import leftovers
from own_runtimes import new_home

PROGRAM = Path(__file__).with_name("kibo_user.py")
#: A killed warden's boxes go one after the other, each with its mounts and network; a busy machine takes its time.
WITHIN_S = 10.0
DEEDS = ["build", "spawn", "action", "exec", "copy", "serve", "call", "destroy"]
VICTIMS = ["user", "warden", "user+warden", "keeper", "keeper+user", "warden+keeper+user", "user by SIGINT"]
#: What is promised first is tried at several moments in every run; `make soak` tries all of it at many.
PROMISED = [(deed, victims) for deed in ("build", "spawn", "action", "destroy") for victims in VICTIMS[:3]]
MOMENTS = 4
#: How long a deed takes: a kill comes at a random moment of it, in seconds.
LASTS_S = {"build": 1.8}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A state directory whose layers are there, so that what is killed is what a test says."""
    path = new_home("kibo-leaks-")
    with leftovers.adopt_orphans():
        before = set(leftovers.descendants(os.getpid()))
        _end(_start(path, "action"))
        yield path
        assert leftovers.await_clean(path, os.getpid(), before, WITHIN_S) == {}
    shutil.rmtree(path)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Random moments that can be had again: the seed is printed with a failure."""
    seed = int(os.environ.get("KIBO_TEST_SEED", random.SystemRandom().getrandbits(32)))
    print(f"KIBO_TEST_SEED={seed}")
    return random.Random(seed)


def _start(home: Path, deed: str) -> subprocess.Popen[str]:
    """Starts the user's program and waits until it is at it."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, deed, "x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KIBO_HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    line = process.stdout.readline() if ready else ""
    assert line == "ready\n", (
        line,
        process.poll(),
        process.stderr.read() if process.poll() is not None else "",
    )
    return process


def _end(process: subprocess.Popen[str]) -> None:
    """Lets the user's program end by itself, if it still runs."""
    try:
        process.communicate(timeout=30)
    except ValueError:
        process.wait(30)


def _find(user: int, name: str) -> list[int]:
    """Finds the warden, the keeper or the builder of a user's process; there may be a builder or none."""
    below = leftovers.descendants(user)
    if name == "builder":
        return [pid for pid in below if b"kibo.runtime.builder" in _command_line(pid)]
    titled = [pid for pid, title in below.items() if title == "kibo-warden"]
    # What a warden has just started is called as it is, for a moment; what has no parent has ended meanwhile.
    wardens = [pid for pid in titled if leftovers.parent(pid) not in (0, *titled)]
    assert wardens, f"there is no warden to kill, only {below}"
    if name == "warden":
        return wardens
    return [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in wardens]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""  # it ended while we looked


def _kill(process: subprocess.Popen[str], victims: str) -> None:
    """Kills, and makes sure that it did: each victim was there, and is gone."""
    if victims == "user by SIGINT":
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        return
    pids = []
    for name in victims.split("+"):
        pids += [process.pid] if name == "user" else _find(process.pid, name)
    assert process.poll() is None, "the user's process had ended before it was killed"
    ends = [os.pidfd_open(pid) for pid in pids]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # taken along by the one before
    for end in ends:
        assert select.select([end], [], [], WITHIN_S)[0], f"{victims} did not end when killed"
        os.close(end)


def _murder(home: Path, deed: str, victims: str, dice: random.Random) -> None:
    before = set(leftovers.descendants(os.getpid()))
    process = _start(home, deed)
    time.sleep(dice.uniform(0, LASTS_S.get(deed, 0.15)))
    namespaces = kernel_namespaces.of_processes([*leftovers.descendants(process.pid)])
    assert len(namespaces) > len(kernel_namespaces.KINDS), "the runtime's namespaces were not seen"
    _kill(process, victims)
    if "user" not in victims:
        # It finds out and is not harmed; who only spawns goes on with a new runtime.
        if deed in ("action", "exec"):
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0], "it was not told"
        assert process.poll() is None
    _end(process)
    if victims in ("keeper+user", "warden+keeper+user"):
        # Who would clean up is dead: the processes are gone, and the next to use the directory sweeps the rest.
        deadline = time.monotonic() + WITHIN_S
        while left := leftovers.descendants(os.getpid()).keys() - before:
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
        _end(_start(home, "action"))
    left = leftovers.await_clean(home, process.pid, before, WITHIN_S, namespaces)
    leftovers.reap_adopted(before)
    assert left == {}


@pytest.mark.parametrize("victims", VICTIMS)
@pytest.mark.parametrize("deed", DEEDS)
def test_nothing_is_left_when_killed(home: Path, dice: random.Random, deed: str, victims: str) -> None:
    for _ in range(MOMENTS if (deed, victims) in PROMISED else 1):
        _murder(home, deed, victims, dice)


def test_nothing_is_left_when_a_builder_is_killed(home: Path, dice: random.Random) -> None:
    before = set(leftovers.descendants(os.getpid()))
    process = _start(home, "build")
    deadline = time.monotonic() + 20
    while not _find(process.pid, "builder"):
        assert time.monotonic() < deadline, "nothing was built"
    time.sleep(dice.uniform(0, 0.5))
    _kill(process, "builder")
    _end(process)
    assert leftovers.await_clean(home, process.pid, before, WITHIN_S) == {}


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victims", VICTIMS)
@pytest.mark.parametrize("deed", DEEDS)
def test_nothing_is_left_when_killed_many_times(
    home: Path, dice: random.Random, deed: str, victims: str
) -> None:
    for _ in range(20):
        _murder(home, deed, victims, dice)


def test_what_is_looked_for_is_seen_while_it_is_there(home: Path) -> None:
    before = set(leftovers.descendants(os.getpid()))
    process = _start(home, "exec")
    namespaces = kernel_namespaces.of_processes([*leftovers.descendants(process.pid)])
    seen = leftovers.leftovers(home, process.pid, before, namespaces)
    _end(process)
    kinds = {name.partition(":")[0] for name in seen["namespaces"]}  # type: ignore[attr-defined]
    assert kinds >= {"user", "mnt", "pid", "net", "ipc", "uts"}
    assert {"kibo-warden", "kibo-guest"} <= set(seen["processes"].values())  # type: ignore[attr-defined]
    assert any(str(process.pid) in path for path in seen["files"])  # type: ignore[attr-defined]
    assert any("kibo/layers" in mount for mount in seen["mounts"])  # type: ignore[attr-defined]
    assert os.geteuid() != 0 or seen["groups"]
    assert leftovers.await_clean(home, process.pid, before, WITHIN_S, namespaces) == {}


def test_a_namespace_that_only_a_descriptor_holds_is_seen() -> None:
    process = subprocess.Popen(["unshare", "--user", "--net", "sleep", "60"])
    try:
        deadline = time.monotonic() + 10
        while len(found := kernel_namespaces.of_processes([process.pid])) < 2:
            assert time.monotonic() < deadline
        held = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        process.kill()
        process.wait()
    seen = kernel_namespaces.alive(found)
    assert any(name.startswith("net:") for name in seen)
    os.close(held)
    while kernel_namespaces.alive(found):
        assert time.monotonic() < deadline, "it did not go"


@pytest.mark.parametrize("round_number", range(3))
def test_nothing_is_left_when_killed_before_it_is_ready(
    home: Path, dice: random.Random, round_number: int
) -> None:
    before = set(leftovers.descendants(os.getpid()))
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "spawn", "x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "KIBO_HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    time.sleep(dice.uniform(0.2, 1.0))
    process.kill()
    process.communicate()
    left = leftovers.await_clean(home, process.pid, before, WITHIN_S)
    assert left == {}


@pytest.mark.parametrize("round_number", range(4))
def test_nothing_is_left_when_killed_as_its_keeper_starts(
    home: Path, dice: random.Random, round_number: int
) -> None:
    before = set(leftovers.descendants(os.getpid()))
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "spawn", "x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "KIBO_HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    while not leftovers.descendants(process.pid):
        assert process.poll() is None
    time.sleep(dice.uniform(0, 0.1))
    process.kill()
    process.communicate()
    left = leftovers.await_clean(home, process.pid, before, WITHIN_S)
    assert left == {}
