"""A state directory whose disk is full, or that no overlay can be on: an error that says so, and nothing left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from small_disks import fill, mounted, use

PROGRAM = Path(__file__).with_name("disk_user.py")
MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems of its own"),
    pytest.mark.timeout(180),
]


def told_that_it_is_full(answer: dict[str, Any], home: Path) -> None:
    assert answer["code"] == "host.disk_full", answer
    assert str(home) in answer["message"]
    assert "KIBO_HOME" in answer["hint"]
    assert answer["retry"] != "never"


def test_a_disk_that_fills_up_during_a_build_says_so_and_leaves_nothing_of_the_step() -> None:
    with mounted("tmpfs", "size=320m") as home:
        plain, large, again = use(PROGRAM, home, "plain", "large", "plain")
        assert plain["code"] == again["code"] == "ok"
        told_that_it_is_full(large, home)
        assert list((home / "tmp").iterdir()) == []


@pytest.mark.parametrize("leave_bytes", [0, 64 << 10, 2 * MIB])
def test_the_first_spawn_on_a_full_disk_says_so(leave_bytes: int) -> None:
    with mounted("tmpfs", "size=320m") as home:
        fill(home, leave_bytes)
        [answer] = use(PROGRAM, home, "plain")
        told_that_it_is_full(answer, home)


def test_a_spawn_from_cached_layers_on_a_full_disk_says_so_or_needs_none() -> None:
    with mounted("tmpfs", "size=320m") as home:
        [answer] = use(PROGRAM, home, "plain")
        assert answer["code"] == "ok"
        filling = fill(home, 0)
        [answer] = use(PROGRAM, home, "plain")
        if answer["code"] != "ok":
            told_that_it_is_full(answer, home)
        filling.unlink()
        [answer] = use(PROGRAM, home, "plain")
        assert answer["code"] == "ok"


def test_a_copy_for_a_fork_that_finds_no_room_says_so_and_leaves_nothing() -> None:
    with mounted("tmpfs", "size=320m") as home:
        [answer] = use(PROGRAM, home, "fork")
        assert answer["code"] == "host.disk_full", answer
        assert answer["retry"] != "never"


@pytest.mark.parametrize("kind", ["overlay", "ramfs"])
def test_a_state_directory_that_no_overlay_can_be_on_is_refused_with_a_remedy(
    kind: str,
) -> None:
    """An overlay cannot hold another's writable side; a ramfs has no extended attributes."""
    options = "mode=755"
    if kind == "overlay":
        with mounted("tmpfs", "size=320m") as below:
            for name in ("l", "u", "w"):
                (below.parent / name).mkdir()
            options = ",".join(
                f"{key}={below.parent}/{key[0]}" for key in ("lowerdir", "upperdir", "workdir")
            )
            refuse(kind, options)
    else:
        refuse(kind, options)


def refuse(kind: str, options: str) -> None:
    with mounted(kind, options) as home:
        # What a box writes lies in memory; a build step's layer lies there.
        plain, answer = use(PROGRAM, home, "plain", "stepped")
        assert plain["code"] == "ok"
        assert answer["code"] == "host.unsupported", answer
        assert str(home) in answer["message"]
        assert "KIBO_HOME" in answer["hint"]
        assert answer["details"]["missing"] == "overlay-upper"
