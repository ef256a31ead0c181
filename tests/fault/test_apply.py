"""An apply that is killed at any named place has happened entirely or not at all, once somebody has recovered."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from crash_points import apply_points
from forked import Ended, forked
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.plan import plan_apply
from kibo.branch.hostdir.recover import recover
from kibo.store import crash
from overlays import dumped

POINTS = apply_points()


def _apply(home: Path, frozen: str, delta: Path, written: Path | None) -> None:
    """Applies a delta to the directory of a freeze; somebody may write a file once the first step is done."""
    kill = crash._hook

    def hook(passed: str) -> None:
        if passed == "apply.step" and written is not None:
            written.write_text("meanwhile")
        if kill is not None:
            kill(passed)

    crash.install(hook)
    apply(plan_apply(Frozen.load(home, frozen), [delta]))


class World:
    """A host directory, its freeze, and a delta that changes it in every way."""

    def __init__(self, place: Path) -> None:
        self.home, self.host, self.delta = place / "home", place / "host", place / "delta"
        for name in ("keep", "gone/deep", "dir", "tofile"):
            (self.host / name).mkdir(parents=True)
        for name in ("edit", "keep/edit", "gone/deep/x", "mode", "remove", "todir", "tofile/x", "dir/x"):
            (self.host / name).write_text(f"old {name}")
        (self.host / "link").symlink_to("edit")
        self.frozen = freeze(self.host, self.home, flush=False)
        (self.delta / "keep").mkdir(parents=True)
        (self.delta / "new/deep").mkdir(parents=True)
        (self.delta / "todir").mkdir()
        for name in ("edit", "keep/edit", "new/deep/file", "todir/x", "tofile"):
            (self.delta / name).write_text(f"new {name}")
        os.link(self.delta / "edit", self.delta / "keep/edit2")
        (self.delta / "link").symlink_to("mode")
        (self.delta / "mode").write_text("old mode")
        (self.delta / "mode").chmod(0o600)
        for name in ("gone", "remove"):
            os.mknod(self.delta / name, 0o20000)
        self.old = self.shown()
        expected = place / "expected"
        shutil.copytree(self.host, expected, symlinks=True)
        for name in ("gone", "tofile"):
            shutil.rmtree(expected / name)
        for name in ("remove", "todir", "link"):
            (expected / name).unlink()
        (expected / "mode").chmod(0o600)
        (expected / "link").symlink_to("mode")
        for name in ("edit", "keep/edit", "new/deep/file", "todir/x", "tofile"):
            (expected / name).parent.mkdir(parents=True, exist_ok=True)
            (expected / name).write_text(f"new {name}")
        (expected / "keep/edit2").write_text("new edit")
        self.new = dumped(bytes(expected))

    def shown(self) -> dict[str, Any]:
        return dumped(bytes(self.host))

    def apply(self, crash_at: str = "", meanwhile: str = "") -> Ended:
        written = self.host / meanwhile if meanwhile else None
        return forked(_apply, self.home, self.frozen.id, self.delta, written, crash_at=crash_at)

    def recover(self, crash_at: str = "") -> Ended:
        return forked(recover, self.home, crash_at=crash_at)

    def left(self) -> list[str]:
        return os.listdir(self.home / "workspaces/applies")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_apply_that_nobody_kills_does_everything(world: World) -> None:
    assert world.apply().returncode == 0
    assert world.shown() == world.new
    assert world.left() == []


@pytest.mark.parametrize("place", POINTS)
def test_killed_there_it_has_happened_entirely_or_not_at_all(world: World, place: str) -> None:
    assert world.apply(place).returncode == -signal.SIGKILL
    done = world.recover()
    assert done.returncode == 0, done.stderr
    assert world.shown() in (world.old, world.new)
    assert world.left() == []
    # And it can be done, or done again, as if nothing had been.
    frozen = Frozen.load(world.home, world.frozen.id)
    apply(plan_apply(frozen, [world.delta]))
    assert world.shown() == world.new
    assert plan_apply(frozen, [world.delta]).operations == []


@pytest.mark.parametrize(
    "place", ["recover.step", "apply.renamed", "apply.advanced", "apply.cleaning", "apply.ended"]
)
def test_a_recovery_may_be_killed_too(world: World, place: str) -> None:
    assert world.apply("apply.step").returncode == -signal.SIGKILL
    assert world.recover(place).returncode == -signal.SIGKILL
    assert world.recover().returncode == 0
    assert world.shown() == world.new
    assert world.left() == []


@pytest.mark.parametrize("place", ["", "apply.undone", "apply.undone:3", "apply.cleaning"])
def test_one_that_takes_back_what_it_did_may_be_killed_too(world: World, place: str) -> None:
    done = world.apply(place, meanwhile="remove")
    assert done.returncode == (-signal.SIGKILL if place else 1)
    assert place or "HostDrift" in done.stderr
    recovered = world.recover()
    assert recovered.returncode == 0, recovered.stderr
    shown = world.shown()
    texts = {path: entry for path, entry in shown.items() if "kept" not in path and path != "remove"}
    sides = [
        {path: entry for path, entry in side.items() if path != "remove"} for side in (world.old, world.new)
    ]
    assert texts in sides
    assert b"meanwhile".hex() in [entry[2] for entry in shown.values()]
    assert not [path for path in shown if ".kibo-apply-" in path]
    assert world.left() == []


@pytest.mark.parametrize("place", ["apply.committed", "apply.step", "apply.step.last"])
@pytest.mark.parametrize(
    "name", ["edit", "keep/edit", "mode", "remove", "gone/deep/x", "todir", "new", "tofile"]
)
def test_what_the_user_wrote_after_the_crash_is_never_lost(world: World, place: str, name: str) -> None:
    world.apply(place)
    path = world.host / name
    if path.is_dir():
        path = path / "mine"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("what I wrote since")
    done = world.recover()
    assert done.returncode == 0, done.stderr
    texts = [entry[2] for entry in world.shown().values()]
    assert b"what I wrote since".hex() in texts
    assert not [path for path in world.shown() if ".kibo-apply-" in path]
