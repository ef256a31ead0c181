"""Sessions of programs and of people that are killed on the way: entirely or not at all, and the next one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fault import sessions_user
from forked import forked
from kibo.effects.sessions.leasing import Place
from kibo.effects.sessions.people import give, take
from kibo.model.errors import HostDiskFull
from kibo.runtime.waiting import Blocking, run
from kibo.store.database import Store
from session_places import Box, end, leased, profile, read
from small_disks import mounted

pytestmark = pytest.mark.fault

PROGRAM = Path(sessions_user.__file__)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    return place


def started(home: Path, what: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, PROGRAM, home, what], env=variables, stdout=subprocess.PIPE, text=True
    )


def finished(home: Path, what: str, at: str = "") -> int:
    return forked(sessions_user.main, home, what, crash_at=at).returncode


def whole(home: Path) -> dict[str, bytes]:
    """The profile as the next holder gets it, who waits for nobody, and that nothing else is on the disk."""
    with Store.open(f"sqlite:///{home}/history.db") as store:
        place = profile(store, home)
        lease = leased(place, wait_s=0)
        found = Box(home.parent / "look").load(lease)
        assert Box(home.parent / "look").save(lease).changed == ()
        end(lease)
        assert place.register.queue(place.id) == []
        assert os.listdir(place.contents.place / "staging") == []
        assert [name for name in os.listdir(place.holders) if name != "bell"] == []
    return found


@pytest.mark.parametrize(
    ("at", "saved"),
    [
        ("session.before_ask", False),
        ("session.asked", False),
        ("session.before_grant", False),
        ("session.granted", False),
        ("session.before_flush", False),
        ("session.published", False),
        ("session.before_save", False),
        ("session.saved", True),
        ("session.before_end", True),
    ],
)
def test_a_save_that_is_killed_has_happened_entirely_or_not_at_all(home: Path, at: str, saved: bool) -> None:
    assert finished(home, "save", at) == -signal.SIGKILL
    assert whole(home) == ({"0": b"content"} if saved else {})
    assert finished(home, "save") == 0
    assert len(whole(home)) == 1 + saved


@pytest.mark.parametrize(
    ("at", "saved"),
    [
        ("session.before_put", False),
        ("commit.before_swap", False),
        ("commit.before_commit", False),
        ("session.before_end", True),
    ],
)
def test_what_a_fork_saved_is_there_exactly_where_its_commit_is(home: Path, at: str, saved: bool) -> None:
    assert finished(home, "fork", at) == -signal.SIGKILL
    assert whole(home) == ({"0": b"content"} if saved else {})


def asking(home: Path) -> bool:
    with Store.open(f"sqlite:///{home}/history.db") as store:
        place = profile(store, home)
        return any(row.with_person for row in place.register.queue(place.id))


@pytest.mark.parametrize(
    ("what", "at"),
    [
        ("take", "session.before_take"),
        ("take", "session.taken"),
        ("give", "session.published"),
        ("give", "session.before_give"),
        ("give", "session.given"),
    ],
)
def test_a_person_s_command_that_is_killed_can_be_given_again_and_the_program_goes_on(
    home: Path, what: str, at: str
) -> None:
    with started(home, "ask") as program:
        while not asking(home):
            time.sleep(0.02)
        for each in ("take", "give"):
            if each == what:
                assert finished(home, each, at) == -signal.SIGKILL
            if at != "session.given" or each == "take":
                assert finished(home, each) == 0
        out, _ = program.communicate(timeout=20)
    assert (program.returncode, out) == (0, "1234\n")
    assert whole(home) == {"code": b"1234"}


def test_a_program_that_is_killed_while_a_person_has_it_leaves_the_profile_to_others_and_to_the_person(
    home: Path,
) -> None:
    with started(home, "ask") as program:
        while not asking(home):
            time.sleep(0.02)
        assert finished(home, "take") == 0
        program.kill()
    assert finished(home, "save") == 0
    assert finished(home, "give") == 0
    assert whole(home) == {"0": b"content", "code": b"1234"}


def test_a_program_that_is_stopped_loses_the_profile_and_saves_nothing_when_it_goes_on(home: Path) -> None:
    with Store.open(f"sqlite:///{home}/history.db") as store:
        place = profile(store, home)
        with started(home, "ask") as program:
            while not asking(home):
                time.sleep(0.02)
            program.send_signal(signal.SIGSTOP)
            lease = place.register.revoke(place.id)
            assert lease is not None
            held = leased(place, wait_s=5)
            assert Box(home.parent / "next").save(held, {"a": b"1"}).version == 1
            program.send_signal(signal.SIGCONT)
            program.communicate(timeout=20)
        assert program.returncode != 0
        assert Box(home.parent / "next").load(held) == {"a": b"1"}
        end(held)


def test_the_program_is_woken_at_once_when_the_person_is_done(home: Path, tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{home}/history.db") as store:
        place = profile(store, home)
        lease = leased(place)
        woken: list[float] = []

        def wait() -> None:
            run(lease.hand_over("enter the code", 30))
            woken.append(time.monotonic())

        waits = threading.Thread(target=wait)
        waits.start()
        while not asking(home):
            time.sleep(0.01)
        take(place, tmp_path / "mine")
        looked = place_looks(place)
        run(give(place, tmp_path / "mine", Blocking(), 0))
        given = time.monotonic()
        waits.join()
        assert woken[0] - given < 1.5  # less than the two seconds of a look without a wake-up
        assert looked() < 20  # no busy polling
        end(lease)


def place_looks(place: Place) -> Callable[[], int]:
    """Counts how often somebody looks from now on."""
    seen = 0
    real = place.register.state

    def state(lease: str) -> object:
        nonlocal seen
        seen += 1
        return real(lease)

    place.register.state = state  # type: ignore[method-assign,assignment]
    return lambda: seen


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_saves_nothing_says_so_and_leaves_the_profile_as_it_was() -> None:
    with mounted("tmpfs", "size=3m") as home:
        home.mkdir()
        with Store.open(f"sqlite:///{home}/history.db") as store:
            place = profile(store, home)
            lease = leased(place)
            with tempfile.TemporaryDirectory() as elsewhere:
                box = Box(Path(elsewhere) / "box")
                box.save(lease, {"a": b"1"})
                with pytest.raises(HostDiskFull):
                    box.save(lease, {"a": b"2", "large": os.urandom(4 << 20)})
                assert box.load(lease) == {"a": b"1"}
                box.save(lease, {"a": b"3"})
                assert read(box.place) == {"a": b"3"}
            end(lease)
            assert len(os.listdir(place.contents.files)) == 2
