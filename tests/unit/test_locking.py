"""Locks between processes: when they end."""

from __future__ import annotations

import os
from pathlib import Path

from kibo.store.locking import claim, lock, release, try_lock


def test_a_claimed_lock_ends_with_its_process_though_a_child_that_was_forked_from_it_lives(
    tmp_path: Path,
) -> None:
    waiting, going_on = os.pipe()
    hearing, telling = os.pipe()
    holder = os.fork()
    if holder == 0:
        fd = claim(lock(tmp_path / "lock"))
        if os.fork() == 0:
            os.write(fd, b"nobody reads this")
            os.write(telling, b".")
            os.close(going_on)
            os.read(waiting, 1)
        os._exit(0)
    os.waitpid(holder, 0)
    os.read(hearing, 1)
    fd = try_lock(tmp_path / "lock")
    assert fd is not None
    assert os.read(fd, 100) == b""
    for each in (going_on, waiting, hearing, telling, fd):
        os.close(each)


def test_what_was_released_is_anothers(tmp_path: Path) -> None:
    fd = claim(lock(tmp_path / "lock"))
    assert try_lock(tmp_path / "lock") is None
    release(fd)
    again = try_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)
