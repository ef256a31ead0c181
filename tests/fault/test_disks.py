"""A state directory whose disk is full, or that no overlay can be on: an error that says so, and nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import leftovers

PROGRAM = Path(__file__).with_name("disk_user.py")
MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems of its own"),
    pytest.mark.timeout(180),
]


@contextmanager
def mounted(kind: str, options: str) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="kibo-disks-"))
    # Boxes' ids, which are nobody's here, pass through to the layers.
    place.chmod(0o755)
    subprocess.run(["mount", "-t", kind, "-o", options, "none", place], check=True)
    try:
        place.chmod(0o755)
        yield place / "home"
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def use(home: Path, *words: str) -> list[dict[str, Any]]:
    """Runs the user's program, looks at what it left, and returns what it was told."""
    before = set(leftovers.descendants(os.getpid()))
    with leftovers.adopt_orphans():
        process = subprocess.Popen(
            [sys.executable, PROGRAM, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KIBO_HOME": str(home),
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
        out, complaint = process.communicate(timeout=120)
        left = leftovers.await_clean(home, process.pid, before, within_s=10)
        left.pop("mounts", None)  # the file system itself bears the directory's name
        assert left == {}
    assert process.returncode == 0, complaint
    return [json.loads(line) for line in out.splitlines()]


def fill(home: Path, leave_bytes: int) -> Path:
    """Fills the file system that a state directory is on, but for a little."""
    path = home.parent / "filling"
    with open(path, "wb", buffering=0) as file:
        while (free := os.statvfs(home.parent)).f_bavail * free.f_bsize > leave_bytes:
            file.write(bytes(min(MIB, free.f_bavail * free.f_bsize - leave_bytes)))
    return path


def told_that_it_is_full(answer: dict[str, Any], home: Path) -> None:
    assert answer["code"] == "host.disk_full", answer
    assert str(home) in answer["message"]
    assert "KIBO_HOME" in answer["hint"]
    assert answer["retry"] != "never"


def test_a_disk_that_fills_up_during_a_build_says_so_and_leaves_nothing_of_the_step() -> None:
    with mounted("tmpfs", "size=320m") as home:
        plain, large, again = use(home, "plain", "large", "plain")
        assert plain["code"] == again["code"] == "ok"
        told_that_it_is_full(large, home)
        assert list((home / "tmp").iterdir()) == []


@pytest.mark.parametrize("leave_bytes", [0, 64 << 10, 2 * MIB])
def test_the_first_spawn_on_a_full_disk_says_so(leave_bytes: int) -> None:
    with mounted("tmpfs", "size=320m") as home:
        fill(home, leave_bytes)
        [answer] = use(home, "plain")
        told_that_it_is_full(answer, home)


def test_a_spawn_from_cached_layers_on_a_full_disk_says_so_or_needs_none() -> None:
    with mounted("tmpfs", "size=320m") as home:
        [answer] = use(home, "plain")
        assert answer["code"] == "ok"
        filling = fill(home, 0)
        [answer] = use(home, "plain")
        if answer["code"] != "ok":
            told_that_it_is_full(answer, home)
        filling.unlink()
        [answer] = use(home, "plain")
        assert answer["code"] == "ok"


def test_a_copy_for_a_fork_that_finds_no_room_says_so_and_leaves_nothing() -> None:
    with mounted("tmpfs", "size=320m") as home:
        [answer] = use(home, "fork")
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
        plain, answer = use(home, "plain", "stepped")
        assert plain["code"] == "ok"
        assert answer["code"] == "host.unsupported", answer
        assert str(home) in answer["message"]
        assert "KIBO_HOME" in answer["hint"]
        assert answer["details"]["missing"] == "overlay-upper"
