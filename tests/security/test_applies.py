"""What a box, or who may write in a host directory, could have an apply do there with its owner's rights."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kibo.branch.hostdir import staging
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.plan import plan_apply
from kibo.model.errors import HostDrift
from kibo.runtime.layers.temporary import remove_tree

FEW_FILES = 64


class World:
    """A host directory, its freeze, and a delta to be filled."""

    def __init__(self, place: Path) -> None:
        self.home, self.host, self.delta = place / "home", place / "host", place / "delta"
        self.host.mkdir()
        self.delta.mkdir()
        (self.host / "tool").write_text("tool")
        (self.host / "tool").chmod(0o755)

    def freeze(self) -> None:
        self.frozen = freeze(self.host, self.home, flush=False)

    def apply(self) -> Any:
        return apply(plan_apply(self.frozen, [self.delta]))

    def mode(self, name: str) -> int:
        return stat.S_IMODE((self.host / name).stat().st_mode)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.freeze()
    return made


def test_no_file_that_a_box_made_set_id_is_so_on_the_host(world: World) -> None:
    (world.delta / "sub").mkdir()
    for name in ("new", "sub/new", "tool"):
        (world.delta / name).write_text("of the box")
        (world.delta / name).chmod(0o6755)
    (world.delta / "sub").chmod(0o2777)
    world.apply()
    assert [world.mode(name) for name in ("new", "sub/new", "tool")] == [0o755] * 3
    assert world.mode("sub") == 0o777
    assert plan_apply(world.frozen, [world.delta]).operations == []


def test_set_id_bits_on_an_unchanged_file_are_no_change(world: World) -> None:
    (world.delta / "tool").write_text("tool")
    (world.delta / "tool").chmod(0o4755)
    assert plan_apply(world.frozen, [world.delta]).operations == []
    (world.delta / "tool").chmod(0o4750)
    assert world.apply().attributes == (b"tool",)
    assert world.mode("tool") == 0o750


def test_a_shared_directory_keeps_the_hosts_own_set_group_id(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.host / "shared").mkdir()
    (world.host / "shared").chmod(0o2775)
    world.freeze()
    (world.delta / "shared").mkdir()
    (world.delta / "shared" / "made").mkdir(mode=0o755)
    (world.delta / "shared").chmod(0o700)
    world.apply()
    assert world.mode("shared") == 0o2700
    assert world.mode("shared/made") == 0o2755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can set these attributes")
def test_no_file_capability_and_no_trusted_attribute_comes_to_the_host(world: World) -> None:
    (world.delta / "able").write_text("x")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(world.delta / "able", "security.capability", capability)
    os.setxattr(world.delta / "able", "user.note", b"kept")
    world.apply()
    assert os.listxattr(world.host / "able") == ["user.note"]


@pytest.mark.parametrize("target", ["directory", "link"])
def test_a_staged_directory_that_is_swapped_leads_nowhere_else(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Whoever may write in the host directory waits for the hidden name, and puts something else there."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "precious").touch()
    (world.delta / "sub").mkdir()
    (world.delta / "sub" / "file").write_text("of the box")
    mkdir = os.mkdir

    def swapping(name: Any, *arguments: Any, **options: Any) -> None:
        mkdir(name, *arguments, **options)
        if isinstance(name, bytes) and name.startswith(b".kibo-apply-"):
            made = world.host / os.fsdecode(name)
            made.rmdir()
            if target == "link":
                made.symlink_to(outside)
            else:
                outside.rename(made)

    monkeypatch.setattr(staging.os, "mkdir", swapping)
    with pytest.raises(HostDrift):
        world.apply()
    monkeypatch.undo()
    kept = outside if target == "link" else None
    if kept is not None:
        assert os.listdir(kept) == ["precious"]
        assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert os.listdir(world.host) == ["tool"]


def test_many_files_of_several_names_need_no_descriptor_each(world: World) -> None:
    import resource

    (world.delta / "sub").mkdir()
    for number in range(4 * FEW_FILES):
        (world.delta / "sub" / f"{number}").write_text(f"{number}")
        os.link(world.delta / "sub" / f"{number}", world.delta / "sub" / f"again-{number}")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + FEW_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        world.apply()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    one, two = (world.host / "sub" / name for name in ("7", "again-7"))
    assert one.samefile(two)
    assert one.stat().st_nlink == 2


def test_directories_nested_deeper_than_paths_can_name_are_removed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        inner = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.fchmod(fd, 0)
    os.close(fd)
    remove_tree(tmp_path / "deep")
    assert os.listdir(tmp_path) == []
