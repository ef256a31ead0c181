"""What a box, or who may write in a host directory, could have an apply do there with its owner's rights."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kibo.branch.hostdir import staging
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.plan import plan_apply
from kibo.model.errors import HostDrift, PathTooLong
from kibo.runtime.layers.temporary import remove_tree
from kibo.runtime.trees.archive import export_deltas
from kibo.runtime.trees.stack import Stack

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


# -- the host's directory, changed between the plan and the apply


class Outside:
    """A directory beside the host's, and what it must still be afterwards."""

    def __init__(self, place: Path) -> None:
        self.path = place / "outside"
        self.path.mkdir(mode=0o700)
        for name in ("file", "tool"):
            (self.path / name).write_text("tool")
            (self.path / name).chmod(0o640)

    def check(self) -> None:
        assert sorted(os.listdir(self.path)) == ["file", "tool"]
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o700
        for name in ("file", "tool"):
            info = (self.path / name).stat()
            assert ((self.path / name).read_text(), stat.S_IMODE(info.st_mode)) == ("tool", 0o640)


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path)


def swap_directory(world: World, outside: Outside) -> None:
    shutil.rmtree(world.host / "sub")
    (world.host / "sub").symlink_to(outside.path)


def swap_parent(world: World, outside: Outside) -> None:
    (outside.path.parent / "deeper").mkdir()
    outside.path.rename(outside.path.parent / "deeper" / "sub")
    shutil.rmtree(world.host / "deep")
    (world.host / "deep").symlink_to(outside.path.parent / "deeper")
    outside.path = outside.path.parent / "deeper" / "sub"


def swap_file_for_link(world: World, outside: Outside) -> None:
    (world.host / "sub/file").unlink()
    (world.host / "sub/file").symlink_to(outside.path / "file")


def swap_file_for_hard_link(world: World, outside: Outside) -> None:
    (outside.path / "file").chmod(0o640)
    (world.host / "sub/file").unlink()
    os.link(outside.path / "file", world.host / "sub/file")


def swap_root(world: World, outside: Outside) -> None:
    world.host.rename(world.host.with_name("moved"))
    shutil.copytree(outside.path, world.host)


def swap_root_for_link(world: World, outside: Outside) -> None:
    world.host.rename(world.host.with_name("moved"))
    world.host.symlink_to(outside.path)


SWAPS: list[Callable[[World, Outside], None]] = [
    swap_directory,
    swap_parent,
    swap_file_for_link,
    swap_file_for_hard_link,
    swap_root,
    swap_root_for_link,
]


def changing(world: World) -> None:
    """Has a box change, remove and make files in two directories."""
    for name in ("sub", "deep/sub"):
        (world.host / name).mkdir(parents=True)
        for file in ("file", "tool"):
            (world.host / name / file).write_text("host")
    world.freeze()
    for name in ("sub", "deep/sub"):
        (world.delta / name).mkdir(parents=True)
        (world.delta / name / "file").write_text("of the box")
        (world.delta / name / "made").write_text("of the box")
        os.mknod(world.delta / name / "tool", stat.S_IFCHR, 0)


@pytest.mark.parametrize("swap", SWAPS)
def test_what_was_swapped_after_the_plan_is_drift_and_leads_nowhere(
    tmp_path: Path, outside: Outside, swap: Callable[[World, Outside], None]
) -> None:
    world = World(tmp_path)
    changing(world)
    plan = plan_apply(world.frozen, [world.delta])
    swap(world, outside)
    with pytest.raises(HostDrift):
        apply(plan)
    outside.check()
    assert not [name for _, _, names in os.walk(tmp_path / "host") for name in names if ".kibo" in name]


@pytest.mark.parametrize("swap", SWAPS)
def test_what_is_swapped_in_the_middle_of_an_apply_leads_nowhere(
    tmp_path: Path, outside: Outside, swap: Callable[[World, Outside], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All has been compared with the plan, and staged; the renames come next."""
    world = World(tmp_path)
    changing(world)
    plan = plan_apply(world.frozen, [world.delta])
    flush = staging.Staging.flush

    def swapping(self: staging.Staging) -> None:
        flush(self)
        swap(world, outside)

    monkeypatch.setattr(staging.Staging, "flush", swapping)
    if swap in (swap_root, swap_root_for_link):
        apply(plan)  # of the directory that was frozen, which is still open, wherever it is now
        assert (tmp_path / "moved/sub/file").read_text() == "of the box"
    else:
        with pytest.raises(HostDrift):
            apply(plan)
    outside.check()


def test_a_mode_that_a_box_gave_does_not_reach_a_file_outside_by_a_hard_link(
    tmp_path: Path, outside: Outside
) -> None:
    world = World(tmp_path)
    (world.host / "file").write_text("tool")
    (world.host / "file").chmod(0o640)
    world.freeze()
    (world.delta / "file").write_text("tool")
    (world.delta / "file").chmod(0o666)
    plan = plan_apply(world.frozen, [world.delta])
    assert [operation.deed for operation in plan.operations] == ["attributes"]
    (world.host / "file").unlink()
    os.link(outside.path / "file", world.host / "file")
    apply(plan)
    assert world.mode("file") == 0o666
    outside.check()


# -- what a box made


def test_a_link_that_leads_out_is_a_link_and_nothing_is_ever_written_through_it(
    world: World, outside: Outside, tmp_path: Path
) -> None:
    for name, target in (("a", "b"), ("b", "c"), ("c", "../outside"), ("d", str(outside.path))):
        (world.delta / name).symlink_to(target)
    world.apply()
    assert os.readlink(world.host / "c") == "../outside"
    again = freeze(world.host, world.home, flush=False)
    assert not any((layer / "c").is_dir() and not (layer / "c").is_symlink() for layer in again.layers)
    other = tmp_path / "delta2"
    other.mkdir()
    for name in "abcd":
        (other / name).mkdir()
        os.setxattr(other / name, "user.overlay.opaque", b"y")
        (other / name / "file").write_text("of the box")
    apply(plan_apply(again, [other]))
    assert (world.host / "a/file").read_text() == "of the box"
    outside.check()


def test_sockets_and_devices_are_named_and_stay_away(world: World) -> None:
    (world.delta / "sub").mkdir()
    dropped = [b"socket", b"sub/socket"]
    for name in ("socket", "sub/socket"):
        os.mknod(world.delta / name, stat.S_IFSOCK | 0o644)
    if os.geteuid() == 0:
        os.mknod(world.delta / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(world.delta / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
        dropped += [b"disk", b"null"]
    assert sorted(world.apply().dropped) == sorted(dropped)
    assert sorted(os.listdir(world.host)) == ["sub", "tool"]
    assert os.listdir(world.host / "sub") == []


@pytest.mark.parametrize("mark", ["opaque", "whiteout", "origin", "redirect", "metacopy"])
def test_the_overlays_own_marks_on_the_host_hide_nothing_from_a_box(tmp_path: Path, mark: str) -> None:
    world = World(tmp_path)
    (world.host / "sub").mkdir()
    (world.host / "sub/empty").touch()
    world.freeze()
    (world.host / "sub/later").write_text("later")
    os.setxattr(world.host / "sub", f"user.overlay.{mark}", b"x")
    os.setxattr(world.host / "sub", "user.overlay.opaque", b"x")
    os.setxattr(world.host / "sub/empty", f"user.overlay.{mark}", b"y")
    world.freeze()
    with Stack(world.frozen.layers) as stack:
        sub = stack.find(b"sub")
        assert sub is not None
        assert [child.path for child in sub.children()] == [b"sub/empty", b"sub/later"]
        assert f"user.overlay.{mark}" in sub.attributes()
    assert plan_apply(world.frozen, []).operations == []


def deep(directory: Path, levels: int) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("directory", dir_fd=fd)
        inner = os.open("directory", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_directories_nested_deeper_than_paths_can_name_are_refused_by_name(
    world: World, tmp_path: Path
) -> None:
    deep(world.delta, 600)
    for work in (
        lambda: plan_apply(world.frozen, [world.delta]),
        lambda: export_deltas([("delta_0", tmp_path / "exported")], io.BytesIO()),
    ):
        (tmp_path / "exported").mkdir(exist_ok=True)
        if not (tmp_path / "exported/u").exists():
            (tmp_path / "exported/u").symlink_to(world.delta)
        with pytest.raises(PathTooLong):
            work()
    deep(world.host, 600)
    with pytest.raises(PathTooLong):
        world.freeze()
    assert os.listdir(world.home / "tmp") == []
    remove_tree(world.host / "directory")
    remove_tree(world.delta / "directory")
    deep(world.delta, 390)  # nearly all that is kept
    world.apply()
    assert sum(len(names) for _, _, names in os.walk(world.host)) == 2
    for tree in (world.host, world.delta):
        remove_tree(tree / "directory")


# -- two at once

APPLY = """
import sys
from pathlib import Path
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.plan import plan_apply
from kibo.model.errors import HostDrift
plan = plan_apply(Frozen.load(Path(sys.argv[1]), sys.argv[2]), [sys.argv[3]])
print("ready", flush=True)
sys.stdin.readline()
try:
    apply(plan)
    print("applied")
except HostDrift:
    print("drift")
"""


def test_of_two_processes_that_apply_to_one_directory_one_does_it_and_the_other_is_told(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    names = [f"file-{number}" for number in range(200)]
    for name in names:
        (world.host / name).write_text("host")
    processes = []
    for who in ("one", "two"):
        delta = tmp_path / f"delta-{who}"
        delta.mkdir()
        for name in names:
            (delta / name).write_text(who)
        frozen = freeze(world.host, world.home, flush=False)
        command = [sys.executable, "-c", APPLY, str(world.home), frozen.id, str(delta)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        processes.append(
            subprocess.Popen(
                command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(said) == ["applied", "drift"]
    winner = ("one", "two")[said.index("applied")]
    assert {(world.host / name).read_text() for name in names} == {winner}
    assert sorted(os.listdir(world.host)) == sorted([*names, "tool"])
