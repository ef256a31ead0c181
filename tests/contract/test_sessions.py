"""Leases of profiles, their versions, and what commits and aborts do to saves, over every database."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import databases
from kibo.branch.history import History
from kibo.effects.sessions import people
from kibo.effects.sessions.leasing import Lease, Place
from kibo.effects.sessions.people import give, revoke, take
from kibo.model.clock import up_s
from kibo.model.errors import (
    BranchClosed,
    BranchStale,
    InvalidInput,
    LeaseEnded,
    PersonTimedOut,
    ProfileBusy,
    ProfileDamaged,
    ProfileUnknown,
    WrongState,
)
from kibo.model.limits import PROFILE_VERSIONS
from kibo.runtime.waiting import Blocking, run
from kibo.store.database import Store
from session_places import Box, end, leased, profile, read, write

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def store(database_server: str) -> Iterator[Store]:
    """One for all tests: each has a profile of its own."""
    with Store.open(databases.new_store(database_server)) as store:
        yield store


@pytest.fixture
def ada(store: Store, tmp_path: Path) -> Place:
    return profile(store, tmp_path, tmp_path.name)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")


def in_fork(box: Box, tmp_path: Path, *lineage: str, loaded: Any = None) -> Box:
    """The same box in a fork: a copy of its files, and of what it knows of profiles."""
    other = Box(tmp_path / lineage[0], box.copy.name)
    write(other.place, box.files())
    other.copy = replace(other.copy, lineage=lineage, loaded={} if loaded is None else dict(loaded))
    return other


# -- one holder


def test_a_profile_begins_empty_and_is_what_was_saved_last(ada: Place, box: Box, tmp_path: Path) -> None:
    lease = leased(ada)
    assert box.load(lease) == {}
    (box.place / "empty").mkdir()
    (box.place / "link").symlink_to("/etc/passwd")
    saved = box.save(lease, {"Default/Cookies": b"1", "odd\udcff name": bytes(range(256))})
    assert (saved.version, saved.changed) == (1, ("Default/Cookies", "odd\udcff name"))
    (box.place / "odd\udcff name").unlink()
    assert box.save(lease).changed == ("odd\udcff name",)
    assert box.save(lease).version == 2  # nothing has changed: no version more
    end(lease)
    again = leased(ada)
    assert Box(tmp_path / "other").load(again) == {"Default/Cookies": b"1"}
    assert [each.number for each in ada.versions.kept()] == [1, 2]
    end(again)


def test_links_are_left_out_and_told(ada: Place, box: Box) -> None:
    lease = leased(ada)
    write(box.place, {"a": b"1"})
    (box.place / "SingletonLock").symlink_to("host-123")
    saved = box.save(lease)
    assert (saved.changed, saved.left_out) == (("a",), ("SingletonLock",))


def test_old_versions_go_and_their_files_with_them(ada: Place, box: Box) -> None:
    lease = leased(ada)
    for number in range(PROFILE_VERSIONS + 3):
        box.save(lease, {"a": b"%d" % number, "same": b"same"})
    kept = [each.number for each in ada.versions.kept()]
    assert kept == list(range(4, PROFILE_VERSIONS + 4))
    assert len(os.listdir(ada.contents.files)) == PROFILE_VERSIONS + 1
    assert os.listdir(ada.contents.place / "staging") == []
    with pytest.raises(InvalidInput):
        box.load(lease, 3)
    # What is gone back to takes the place of what there is.
    assert box.load(lease, 5)["a"] == b"4"
    assert box.save(lease).changed == ("a",)
    assert box.load(lease)["a"] == b"4"


def test_who_comes_second_waits_and_is_told_who_has_it(ada: Place) -> None:
    first = leased(ada, holder="the first")
    with pytest.raises(ProfileBusy) as error:
        leased(ada, wait_s=0.05)
    assert error.value.details["holder"] == "the first"
    assert [row.holder for row in ada.register.queue(ada.id)] == ["the first"]
    end(first)
    end(first)
    end(leased(ada, wait_s=0))
    assert ada.register.queue(ada.id) == []
    assert [name for name in os.listdir(ada.holders) if name != "bell"] == []


def test_fifty_who_wait_have_it_one_at_a_time_in_the_order_in_which_they_asked(
    ada: Place, store: Store
) -> None:
    many = 50 if store.name.startswith("sqlite") else 10
    first = leased(ada)
    order: list[int] = []
    inside = threading.Semaphore(1)

    def work(number: int) -> None:
        lease = leased(ada, wait_s=50)
        assert inside.acquire(blocking=False)
        order.append(number)
        inside.release()
        end(lease)

    threads = []
    for number in range(many):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        while len(ada.register.queue(ada.id)) < number + 2:
            time.sleep(0.001)
    end(first)
    for thread in threads:
        thread.join()
    assert order == list(range(many))
    assert ada.register.queue(ada.id) == []


def test_a_holder_who_does_nothing_loses_it_to_who_waits_and_can_save_no_more(ada: Place, box: Box) -> None:
    idle = leased(ada, max_s=0.2)
    time.sleep(0.3)
    box.save(idle, {"a": b"1"})  # nobody waits: it is its own
    next_one = leased(ada)
    for call in (lambda: box.save(idle, {"a": b"2"}), lambda: box.load(idle)):
        with pytest.raises(LeaseEnded):
            call()
    end(idle)
    assert box.load(next_one) == {"a": b"1"}
    assert next_one.epoch == idle.epoch + 1


def test_what_is_revoked_saves_no_more_and_the_next_has_it(ada: Place, box: Box) -> None:
    lease = leased(ada)
    box.save(lease, {"a": b"1"})
    ended = revoke(ada)
    assert ended is not None
    assert ended.id == lease.id
    assert revoke(ada) is None
    with pytest.raises(LeaseEnded):
        box.save(lease, {"a": b"2"})
    end(lease)
    assert box.load(leased(ada, wait_s=0)) == {"a": b"1"}


def test_a_clock_that_is_set_takes_a_lease_from_nobody(
    ada: Place, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leased(ada, max_s=60)
    now = time.time()
    for jump in (-1e6, 1e6):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        with pytest.raises(ProfileBusy):
            leased(ada, wait_s=0)
        box.save(lease, {"a": str(jump).encode()})


def test_names_of_all_scripts_are_kept_apart(ada: Place) -> None:
    names = ["Ada", "ada", "../../etc", "a/b", "адa", "🍪", "%", "x" * 200, "a'b\"c"]
    found = {ada.register.ensure(name).id for name in names}
    assert len(found) == len(names)
    assert {ada.register.find(name).id for name in names} == found
    with pytest.raises(ProfileUnknown):
        ada.register.find("nobody")


# -- two sides


def state(**cookies: str) -> bytes:
    named = [
        {"name": name, "domain": "shop.example", "path": "/", "value": value}
        for name, value in cookies.items()
    ]
    return json.dumps({"cookies": named, "origins": []}).encode()


def test_two_boxes_of_one_lease_are_merged_cookie_by_cookie(ada: Place, tmp_path: Path) -> None:
    lease = leased(ada)
    one, two = Box(tmp_path / "one", "one"), Box(tmp_path / "two", "two")
    one.save(lease, {"state.json": state(a="1", b="1", c="1"), "x": b"1"})
    one.load(lease)
    two.load(lease)
    one.save(lease, {"state.json": state(a="2", b="1", c="2"), "x": b"2"})
    saved = two.save(lease, {"state.json": state(a="1", b="3", c="3"), "x": b"3"})
    assert saved.conflicts == ("state.json: cookie c shop.example / ", "x")
    found = one.load(lease)
    cookies = {each["name"]: each["value"] for each in json.loads(found["state.json"])["cookies"]}
    assert cookies == {"a": "2", "b": "3", "c": "3"}
    assert found["x"] == b"3"


def test_damage_is_told_and_an_older_version_or_a_new_sign_in_takes_its_place(ada: Place, box: Box) -> None:
    lease = leased(ada)
    box.save(lease, {"a": b"one", "b": b"b"})
    box.save(lease, {"a": b"two", "b": b"b"})
    (damaged,) = [path for path in ada.contents.files.iterdir() if path.read_bytes() == b"two"]
    damaged.write_bytes(b"twx")
    with pytest.raises(ProfileDamaged) as error:
        box.load(lease)
    assert error.value.details["path"] == "a"
    assert box.load(lease, 1) == {"a": b"one", "b": b"b"}
    box.save(lease)
    assert box.load(lease) == {"a": b"one", "b": b"b"}
    # And the same content again is not taken for what is damaged.
    box.save(lease, {"a": b"two", "b": b"b"})
    assert box.load(lease) == {"a": b"two", "b": b"b"}
    damaged.unlink()
    with pytest.raises(ProfileDamaged):
        box.load(lease)
    assert box.load(lease, 0) == {}
    box.save(lease, {"c": b"new"})
    assert box.load(lease) == {"c": b"new"}


# -- branches


def test_what_a_fork_saves_is_its_own_until_it_is_committed_and_none_of_its_siblings(
    history: History, ada: Place, box: Box, tmp_path: Path
) -> None:
    main = history.create()
    one, two = history.fork(main.id, 2)
    lease = leased(ada)
    box.save(lease, {"a": b"0", "b": b"0"})
    base = {(ada.id, "box"): ada.versions.newest()}
    first, second = in_fork(box, tmp_path, one.id, loaded=base), in_fork(box, tmp_path, two.id, loaded=base)
    assert first.save(lease, {"a": b"1", "b": b"0"}).version is None
    first.save(lease, {"a": b"11", "b": b"0"})
    second.save(lease, {"a": b"2", "b": b"2"})
    assert box.load(lease) == {"a": b"0", "b": b"0"}
    assert first.load(lease) == {"a": b"11", "b": b"0"}
    assert second.load(lease) == {"a": b"2", "b": b"2"}
    history.commit(one.id)
    with pytest.raises(BranchStale):
        history.commit(two.id)
    with pytest.raises(BranchClosed):
        first.save(lease, {"a": b"late"})
    history.abort(two.id)
    assert box.load(lease) == {"a": b"11", "b": b"0"}
    assert [each.number for each in ada.versions.kept()] == [1, 2]
    assert len(os.listdir(ada.contents.files)) == 2


def test_a_commit_into_a_fork_waits_for_that_ones_commit_and_falls_with_its_abort(
    history: History, ada: Place, box: Box, tmp_path: Path
) -> None:
    main = history.create()
    lease = leased(ada)
    box.save(lease, {"a": b"0"})
    for ends, expected in ((history.abort, b"0"), (history.commit, b"1")):
        (outer,) = history.fork(main.id)
        (inner,) = history.fork(outer.id)
        in_fork(box, tmp_path, inner.id, outer.id).save(lease, {"a": b"1"})
        history.commit(inner.id)
        assert box.load(lease) == {"a": b"0"}
        assert in_fork(box, tmp_path, outer.id).load(lease) == {"a": b"1"}
        ends(outer.id)
        assert box.load(lease) == {"a": expected}


def test_a_commit_after_the_lease_has_ended_saves_and_after_another_had_the_profile_it_is_refused(
    history: History, ada: Place, box: Box, tmp_path: Path
) -> None:
    main = history.create()
    (one,) = history.fork(main.id)
    lease = leased(ada)
    fork = in_fork(box, tmp_path, one.id)
    fork.save(lease, {"a": b"1"})
    end(lease)
    history.commit(one.id)
    other = leased(ada)
    assert box.load(other) == {"a": b"1"}
    (two,) = history.fork(main.id)
    fork = in_fork(box, tmp_path, two.id)
    fork.save(other, {"a": b"2"})
    end(other)
    newest = leased(ada)
    with pytest.raises(LeaseEnded):
        history.commit(two.id)
    assert history.get(two.id).status == "open"
    fork.save(newest, {"a": b"3"})
    history.commit(two.id)
    assert box.load(newest) == {"a": b"3"}


def test_a_merge_and_an_overwrite_save_as_a_commit_does(
    history: History, ada: Place, box: Box, tmp_path: Path
) -> None:
    main = history.create()
    lease = leased(ada)
    one, two = history.fork(main.id, 2)
    in_fork(box, tmp_path, one.id).save(lease, {"a": b"1"})
    in_fork(box, tmp_path, two.id).save(lease, {"b": b"2"})
    history.commit(one.id)
    history.commit(two.id, overwrite=True)
    assert box.load(lease) == {"a": b"1", "b": b"2"}


# -- a person


def asked(ada: Place, lease: Lease, timeout_s: float = 20.0) -> tuple[threading.Thread, list[object]]:
    """Has a program ask for a person; returns its thread, and what it is told."""
    told: list[object] = []

    def work() -> None:
        try:
            told.append(run(lease.hand_over("enter the code", timeout_s)))
        except Exception as error:  # noqa: BLE001 - for the test
            told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not ada.register.queue(ada.id)[0].with_person and thread.is_alive():
        time.sleep(0.005)
    return thread, told


def given(ada: Place, directory: Path, wait_s: float = 0.0) -> people.Given:
    return run(give(ada, directory, Blocking(), wait_s))


def test_a_person_takes_the_files_and_what_they_give_back_is_loaded(
    ada: Place, box: Box, tmp_path: Path
) -> None:
    lease = leased(ada)
    box.save(lease, {"a": b"1", "deep/b": b"1"})
    with pytest.raises(WrongState):
        take(ada, tmp_path / "mine")  # nobody has asked
    thread, told = asked(ada, lease)
    with pytest.raises(WrongState):
        box.save(lease, {"a": b"2"})
    taken = take(ada, tmp_path / "mine")
    assert taken.why == "enter the code"
    assert read(tmp_path / "mine") == {"a": b"1", "deep/b": b"1"}
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "mine/a").stat().st_mode & 0o077 == 0
    # Two people at once.
    for other in (tmp_path / "other", tmp_path / "mine/a"):
        with pytest.raises((WrongState, InvalidInput)):
            take(ada, other)
    write(tmp_path / "other", {"a": b"other"})
    with pytest.raises(WrongState):
        given(ada, tmp_path / "other")
    (tmp_path / "mine/a").write_bytes(b"2")
    back = given(ada, tmp_path / "mine")
    assert (back.awaited, back.written.changed) == (True, ("a",))
    thread.join(5)
    assert told == [None]
    assert box.load(lease) == {"a": b"2", "deep/b": b"1"}
    # Given once more it is a profile that somebody brings, and the program has it.
    with pytest.raises(ProfileBusy):
        given(ada, tmp_path / "mine")


def test_nobody_comes_and_who_comes_too_late_is_merged_when_the_program_is_done(
    ada: Place, box: Box, tmp_path: Path
) -> None:
    lease = leased(ada)
    box.save(lease, {"a": b"1", "b": b"1"})
    with pytest.raises(PersonTimedOut) as error:
        run(lease.hand_over("enter the code", 0.05))
    assert "kibo sessions take" in error.value.hint
    thread, told = asked(ada, lease, 0.4)
    take(ada, tmp_path / "mine")
    thread.join()
    assert isinstance(told[0], PersonTimedOut)
    box.save(lease, {"a": b"1", "b": b"2"})
    (tmp_path / "mine/a").write_bytes(b"late")
    with pytest.raises(ProfileBusy):
        given(ada, tmp_path / "mine")
    end(lease)
    assert not given(ada, tmp_path / "mine").awaited
    assert box.load(leased(ada)) == {"a": b"late", "b": b"2"}
    assert people.copies(ada) == []


def test_a_person_has_it_when_it_is_revoked_and_the_program_is_told(
    ada: Place, box: Box, tmp_path: Path
) -> None:
    lease = leased(ada)
    thread, told = asked(ada, lease)
    take(ada, tmp_path / "mine")
    revoke(ada)
    thread.join(5)
    assert isinstance(told[0], LeaseEnded)
    write(tmp_path / "mine", {"a": b"mine"})
    assert not given(ada, tmp_path / "mine").awaited
    assert box.load(leased(ada, wait_s=0)) == {"a": b"mine"}


def test_a_profile_that_somebody_has_begins_a_session(ada: Place, box: Box, tmp_path: Path) -> None:
    write(tmp_path / "mine", {"a": b"mine"})
    assert given(ada, tmp_path / "mine").written.version == 1
    assert box.load(leased(ada, wait_s=0)) == {"a": b"mine"}


def test_deadlines_hold_while_a_person_has_it(ada: Place) -> None:
    lease = leased(ada, max_s=0.1)
    thread, told = asked(ada, lease, 5.0)
    with pytest.raises(ProfileBusy):
        leased(ada, wait_s=0.3)
    thread.join()
    assert isinstance(told[0], PersonTimedOut)
    assert up_s() < ada.register.state(lease.id).expires
