"""What a box may send when a profile is saved from it: nothing of it is kept under a name that leads elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kibo.effects.sessions.leasing import Lease, Place
from kibo.effects.sessions.port import Copy
from kibo.model.errors import GuestViolation, InvalidInput, KiboError, PathRefused, ProfileTooLarge
from kibo.model.limits import MAX_PROFILE_FILES
from kibo.runtime import wire
from kibo.runtime.channel import Channel
from kibo.runtime.files import FileStream
from kibo.runtime.waiting import Blocking, run
from kibo.store.database import Store
from session_places import Sent, end, leased, profile

pytestmark = pytest.mark.security


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Store.open(f"sqlite:///{tmp_path}/history.db") as store:
        yield profile(store, tmp_path)


@pytest.fixture
def lease(place: Place) -> Iterator[Lease]:
    held = leased(place)
    yield held
    end(held)


FILE = (b"a", 0o600, "file", b"content")


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([(b"../a", 0o600, "file", b"x")], PathRefused),
        ([(b"/etc/cron.d/a", 0o600, "file", b"x")], PathRefused),
        ([(b"a\0b", 0o600, "file", b"x")], PathRefused),
        ([FILE, FILE], PathRefused),
        ([FILE, (b"a/b", 0o600, "file", b"x")], PathRefused),
        ([(b"a", 0o700, "directory", b""), FILE], PathRefused),
        ([(b"b", 0o600, "more", b"x")], PathRefused),
        ([FILE, (b"b", 0o600, "more", b"x")], PathRefused),
        ([(b"", 0o600, "file", b"x")], InvalidInput),
        (
            [(b"%d" % number, 0o700, "directory", b"") for number in range(MAX_PROFILE_FILES + 1)],
            ProfileTooLarge,
        ),
        ([(b"%d" % number, 0o777, "link", b"/") for number in range(MAX_PROFILE_FILES + 1)], ProfileTooLarge),
    ],
    ids=str,
)
def test_what_is_no_tree_of_files_is_refused_and_nothing_of_it_is_kept(
    place: Place, lease: Lease, entries: list[tuple[bytes, int, str, bytes]], error: type[KiboError]
) -> None:
    with pytest.raises(error):
        run(lease.save(Copy(Sent(*entries), "box", "", ()), "profile"))
    assert place.versions.kept() == []
    assert os.listdir(place.contents.files) == os.listdir(place.contents.place / "staging") == []


def test_modes_that_give_rights_to_others_are_not_kept(place: Place, lease: Lease) -> None:
    run(lease.save(Copy(Sent((b"a", 0o6777, "file", b"x")), "box", "", ()), "profile"))
    assert place.versions.newest()[b"a"].mode == 0o700


def test_a_link_in_the_place_of_a_profile_s_file_is_not_followed(place: Place, lease: Lease) -> None:
    run(lease.save(Copy(Sent(FILE), "box", "", ()), "profile"))
    (path,) = place.contents.files.iterdir()
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(KiboError, match="missing"):
        run(lease.load(Copy(Sent(), "box", "", ()), "profile", None))


@pytest.mark.parametrize(
    "reply",
    [
        ["entries", [[b"../../a", 0o600, "file", b""]]],
        ["entries", [[b"a", 0o600, "device", b""]]],
        ["entries", [["a", 0o600, "file", b""]]],
        ["entries", "a"],
        [],
        7,
    ],
)
def test_answers_of_no_form_end_the_box_s_turn(reply: object) -> None:
    ours, theirs = Channel.pair()
    taken: list[bytes] = []
    try:
        wire.send_frame(theirs, reply)
        with pytest.raises(GuestViolation):
            run(FileStream(ours).collect(Blocking(), "/p", lambda name, *_: taken.append(name)))
        assert taken == []
    finally:
        ours.close()
        theirs.close()
