"""Sessions in real boxes: what is loaded, saved, forked and committed, in both faces."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import kibo
from kibo import Box, aio
from kibo.branch.branch import Branch
from kibo.model.errors import (
    Denied,
    FileMissing,
    InvalidInput,
    LeaseEnded,
    PathRefused,
    ProfileBusy,
    ProfileTooLarge,
)
from kibo.wiring import runtime
from kibo.wiring.records import Records
from kibo.wiring.sessions import Lease, Profile

PLACE = "/tmp/profile"


@pytest.fixture
def ada(tmp_path: Path) -> Profile:
    return kibo.session(f"shop.example/{tmp_path.name}")


def names(box: object) -> list[str]:
    found: str = box.exec(f"cd {PLACE} && find . -mindepth 1 | sort").stdout  # type: ignore[attr-defined]
    return found.split()


def test_the_next_box_is_what_the_last_one_left(ada: Profile) -> None:
    with ada.lease() as lease:
        with Box().spawn() as box:
            assert lease.load(box, PLACE) == 0
            box.files.write(f"{PLACE}/Default/Cookies", b"1")
            box.files.write(f"{PLACE}/large", bytes(range(256)) * 40_000)
            box.exec(f"cd {PLACE}; mkdir empty; ln -s / out; mkfifo pipe; chmod 4755 Default/Cookies")
            saved = lease.save(box, PLACE)
            assert (saved.version, saved.changed, saved.left_out) == (
                1,
                ("Default/Cookies", "large"),
                ("out",),
            )
        with Box().spawn() as box:
            box.files.write(f"{PLACE}/of somebody else", b"")
            assert lease.load(box, PLACE) == 2
            assert names(box) == ["./Default", "./Default/Cookies", "./large"]
            assert box.files.read(f"{PLACE}/large") == bytes(range(256)) * 40_000
            assert box.exec(f"stat -c %a {PLACE} {PLACE}/Default/Cookies").stdout.split() == ["700", "700"]
            box.files.remove(f"{PLACE}/large")
            assert lease.save(box, PLACE).changed == ("large",)
            with pytest.raises(FileMissing):
                lease.save(box, "/nowhere")
            with pytest.raises(InvalidInput):
                lease.save(box, "/etc/passwd")
            with pytest.raises(PathRefused):
                lease.load(box, "/tmp/..")
            assert len(ada.versions()) == 2


def test_a_box_that_sends_without_end_is_stopped_at_what_a_profile_may_hold(
    ada: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kibo.effects.sessions.staging.MAX_PROFILE_BYTES", 1 << 20)
    monkeypatch.setattr("kibo.effects.sessions.staging.MAX_PROFILE_FILES", 100)
    with ada.lease() as lease, Box().spawn() as box:
        box.exec(f"mkdir {PLACE}; truncate -s 3G {PLACE}/sparse")
        with pytest.raises(ProfileTooLarge):
            lease.save(box, PLACE)
        box.exec(f"rm {PLACE}/*; cd {PLACE}; mkdir $(seq 101)")
        with pytest.raises(ProfileTooLarge):
            lease.save(box, PLACE)
        box.exec(f"rmdir {PLACE}/1 {PLACE}/2; echo 1 > {PLACE}/a")
        assert lease.save(box, PLACE).version == 1  # the box goes on
    place = ada._place.contents.place
    assert os.listdir(place / "staging") == []
    assert len(os.listdir(place / "files")) == 1


def test_forks_have_copies_and_only_the_one_that_is_committed_saves(
    ada: Profile, main: Branch, tmp_path: Path
) -> None:
    with ada.lease() as lease:
        box = main.spawn(Box())
        lease.load(box, PLACE)
        box.files.write(f"{PLACE}/a", b"0")
        lease.save(box, PLACE)
        one, two = main.fork(2)
        for fork, content in ((one, b"1"), (two, b"2")):
            fork[box].files.write(f"{PLACE}/a", content)
            assert lease.save(fork[box], PLACE).version is None
        (deeper,) = one.fork()
        deeper[box].files.write(f"{PLACE}/b", b"deep")
        lease.save(deeper[box], PLACE)
        deeper.commit()
        assert len(ada.versions()) == 1
        one.commit()
        assert two.status == "stale"
        # What the fork had loaded and saved is what the parent has now: what it changes back is changed back.
        assert box.files.read(f"{PLACE}/a") == b"1"
        box.files.write(f"{PLACE}/a", b"0")
        assert lease.save(box, PLACE).changed == ("a",)
        with Box().spawn() as other:
            lease.load(other, PLACE)
            assert names(other) == ["./a", "./b"]
            assert other.files.read(f"{PLACE}/a") == b"0"


def test_a_tree_that_has_loaded_a_session_is_exported_only_where_that_is_asked_for(
    ada: Profile, main: Branch, tmp_path: Path
) -> None:
    box = main.spawn(Box())
    standing = runtime().records().standing()
    main.snapshot()
    standing.send(main.id, tmp_path / "before")
    with ada.lease() as lease:
        lease.load(box, PLACE)
    main.snapshot()
    with pytest.raises(Denied, match="signed in"):
        standing.send(main.id, tmp_path / "after")
    assert not (tmp_path / "after").exists()
    standing.send(main.id, tmp_path / "after", with_sessions=True)


def test_profiles_are_for_their_owner_alone_and_no_box_sees_them(ada: Profile) -> None:
    with ada.lease() as lease, Box().spawn() as box:
        box.exec(f"mkdir {PLACE}; echo secret > {PLACE}/a")
        lease.save(box, PLACE)
        place = ada._place.contents.place
        for path in (place.parent, place, *place.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0
        with Box().spawn() as other:
            assert other.exec(["cat", *map(str, (place / "files").iterdir())]).returncode != 0


HOLDER = """
import os, sys, kibo
lease = kibo.session(sys.argv[1]).lease(wait_s=20)
child = os.fork() if "fork" in sys.argv else 1
if child:
    print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("forked", ["", "fork"])
def test_a_lease_ends_with_its_process_also_where_that_is_killed_and_has_children(
    ada: Profile, home: Path, forked: str
) -> None:
    command = [sys.executable, "-c", HOLDER, ada.name, forked]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ProfileBusy):
            ada.lease(wait_s=0)
        waits = threading.Thread(target=lambda: found.append(ada.lease(wait_s=20)))
        found: list[Lease] = []
        waits.start()
        holder.kill()
        waits.join()
        found[0].end()
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.stdout.read() == b""  # its child has ended, too
    Records(home).close()  # which sweeps what the killed one left of its own


def test_a_forked_process_has_no_lease_of_its_parent(ada: Profile) -> None:
    with ada.lease() as lease, Box().spawn() as box:
        pid = os.fork()
        if pid == 0:
            try:
                lease.save(box, PLACE)
            except LeaseEnded:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(ProfileBusy):
            ada.lease(wait_s=0)


def test_coroutines_have_the_same_and_a_cancelled_wait_leaves_the_queue(tmp_path: Path) -> None:
    async def work() -> None:
        profile = await aio.session(f"async/{tmp_path.name}")
        async with profile.lease() as lease, aio.spawn(Box()) as box:
            assert await lease.load(box, PLACE) == 0
            await box.files.write(f"{PLACE}/a", b"1")
            assert (await lease.save(box, PLACE)).version == 1
            with anyio.move_on_after(0.2) as scope:
                await profile.lease()
            assert scope.cancelled_caught
            with anyio.move_on_after(0.2):
                await lease.hand_over("enter the code")
            assert (await lease.save(box, PLACE)).version == 1  # it is the program's again
        assert profile._place.register.queue(profile._place.id) == []
        again = await profile.lease(wait_s=0)
        await again.end()
        assert [each.number for each in await profile.versions()] == [1]

    run: Callable[..., None] = anyio.run
    run(work)


def test_what_is_no_instance_is_refused(ada: Profile) -> None:
    with ada.lease() as lease, pytest.raises(InvalidInput):
        lease.load(Box(), PLACE)
    with pytest.raises(LeaseEnded):
        lease.hand_over("enter the code")
