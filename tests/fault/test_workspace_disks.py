"""Disks that fill up under a workspace: a clear error that says whose, and all of what was asked, or nothing."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crash_points import apply_points
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.plan import plan_apply
from kibo.branch.hostdir.recover import recover
from kibo.model.errors import Denied, HostDiskFull, HostDrift, HostUnsupported, Unavailable
from kibo.runtime.layers.temporary import remove_tree
from kibo.store import crash
from overlays import dumped
from small_disks import mounted, use

PROGRAM = Path(__file__).with_name("workspace_disk_user.py")
MIB = 1 << 20
FREEZE_POINTS = ["freeze.copied", "freeze.scanned", "freeze.flushed", "freeze.recorded", "freeze.layered"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems of its own"),
    pytest.mark.timeout(180),
]


@contextmanager
def disk(kind: str) -> Iterator[Path]:
    """A small file system of its own: ext4, which keeps names in blocks, or tmpfs, which does not."""
    place = Path(tempfile.mkdtemp(prefix="kibo-disks-"))
    with tempfile.NamedTemporaryFile() as image:
        if kind == "tmpfs":
            what = ["-t", "tmpfs", "-o", f"size={24 * MIB}", "none"]
        else:
            os.truncate(image.name, 24 * MIB)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "4096", image.name], check=True)
            what = ["-o", "loop", image.name]
        subprocess.run(["mount", *what, place], check=True)
        try:
            place.chmod(0o755)
            yield place
        finally:
            # What errors that were caught hold is closed when they are forgotten.
            subprocess.run(["umount", "--lazy", place], check=True)
            place.rmdir()


class Filler:
    """Takes all room of a disk when a point is passed for the first time."""

    def __init__(self, place: Path, at: str) -> None:
        self._path, self._at = place / "filling", at
        self.full = False

    def __enter__(self) -> Filler:
        crash.install(self._passed)
        return self

    def __exit__(self, *exc: object) -> None:
        crash.install(None)
        self._path.unlink(missing_ok=True)

    def _passed(self, name: str) -> None:
        if name == self._at and not self.full:
            self.full = True
            self.fill()

    def fill(self) -> None:
        with open(self._path, "ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue


class World:
    """A host directory, its freeze, and a delta that changes it in every way."""

    def __init__(self, home: Path, host: Path, delta: Path) -> None:
        self.home, self.host, self.delta = home, host, delta
        (host / "gone").mkdir(parents=True)
        for name in ("edit", "remove", "gone/x", "mode"):
            (host / name).write_text(f"old {name}")
        self.frozen = freeze(host, home, flush=False).id
        (delta / "new").mkdir(parents=True)
        (delta / "edit").write_bytes(b"new" * 100_000)
        (delta / "new/file").write_bytes(os.urandom(MIB))
        (delta / "mode").write_text("old mode")
        (delta / "mode").chmod(0o600)
        for name in ("gone", "remove"):
            os.mknod(delta / name, 0o20000)
        self.old = self.shown()

    def shown(self) -> dict[str, Any]:
        return {path: entry for path, entry in dumped(bytes(self.host)).items() if path != "filling"}

    def apply(self) -> None:
        apply(plan_apply(Frozen.load(self.home, self.frozen), [self.delta]))

    def is_applied(self) -> bool:
        shown = self.shown()
        return set(shown) == {"edit", "mode", "new", "new/file"} and len(shown["edit"][2]) == 600_000

    def left(self) -> list[str]:
        return [name for part in ("tmp", "workspaces/applies") for name in os.listdir(self.home / part)]


@contextmanager
def world(kind: str, which: str, tmp_path: Path) -> Iterator[tuple[World, Path]]:
    """One whose state directory or host directory, or both, are on a small disk."""
    with disk(kind) as small:
        home = (small if which != "host" else tmp_path) / "home"
        host = (small if which != "home" else tmp_path) / "host"
        yield World(home, host, tmp_path / "delta"), small


def refused(call: Callable[[], object]) -> HostDiskFull | None:
    try:
        call()
    except HostDiskFull as error:
        return error
    return None


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("which", ["home", "host", "both"])
@pytest.mark.parametrize("place", apply_points())
def test_an_apply_whose_disk_fills_up_there_has_happened_or_says_whose_and_has_not(
    tmp_path: Path, kind: str, which: str, place: str
) -> None:
    with world(kind, which, tmp_path) as (made, small):
        with Filler(small, place) as filler:
            full = refused(made.apply)
            assert filler.full
            if full is None:
                assert made.is_applied()
            else:
                assert which == "both" or full.details["path"].startswith(str(small))
                assert full.hint
                assert made.shown() == made.old
            assert not [name for name in made.shown() if ".kibo-apply-" in name]
        recover(made.home)
        assert made.left() == []
        made.apply()
        assert made.is_applied()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("place", FREEZE_POINTS)
def test_a_freeze_whose_disk_fills_up_there_is_whole_or_leaves_nothing(
    tmp_path: Path, kind: str, place: str
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    for number in range(20):
        (host / f"{number}").write_bytes(os.urandom(100_000))
    with disk(kind) as small:
        home = small / "home"
        freeze(tmp_path / "host", home, flush=False).hold.release()  # type: ignore[union-attr]
        before = {part: set(os.listdir(home / part)) for part in ("deltas", "workspaces/frozen", "tmp")}
        for number in range(20):
            (host / f"{number}").write_bytes(os.urandom(100_000))
        with Filler(small, place) as filler:
            full = refused(lambda: freeze(host, home))
            assert filler.full
            if full is not None:
                assert str(home) in full.message
                assert {part: set(os.listdir(home / part)) for part in before} == before
        frozen = freeze(host, home)
        assert (frozen.layers[-1] / "7").read_bytes() == (host / "7").read_bytes()
        assert os.listdir(home / "tmp") == []


def test_every_verb_of_branches_on_a_full_disk_says_so_and_can_be_done_once_there_is_room() -> None:
    with mounted("tmpfs", "size=320m") as home, tempfile.TemporaryDirectory() as place:
        work = Path(place)
        (work / "other").mkdir()
        (work / "other/large").write_bytes(os.urandom(MIB))
        answers = use(PROGRAM, home, place)
        middle = [answer["verb"] for answer in answers].index("then")
        assert [answer["verb"] for answer in answers[:middle]] == [
            "snapshot", "fork", "commit", "merge", "apply", "spawn",
        ]  # fmt: skip
        for answer in answers[:middle]:
            assert (answer["code"], answer["retry"]) == ("host.disk_full", "after"), answer
            assert str(home) in answer["message"], answer
            assert "kibo gc" in answer["hint"], answer
        assert (answers[middle]["values"], answers[middle]["status"]) == ([1, 1, 1], ["open", "open", "open"])
        assert [answer["code"] for answer in answers[middle + 1 : middle + 7]] == ["ok"] * 6
        *ends, then, again = answers[middle + 7 :]
        assert [(answer["verb"], answer["code"]) for answer in ends] == [
            ("abort", "host.disk_full"), ("close", "host.disk_full"), ("abort", "ok"), ("close", "ok"),
        ]  # fmt: skip
        assert then["status"] == ["committed", "aborted"]
        assert again["main"] == "2"
        assert sorted(os.listdir(work)) == ["dir", "main", "one", "other", "two"]
        assert len(os.listdir(work / "dir")) == 300


@pytest.fixture
def at() -> Iterator[Callable[[str, Callable[[], object]], None]]:
    """Does something when a point is passed for the first time."""

    def install(place: str, deed: Callable[[], object]) -> None:
        def hook(name: str) -> None:
            if name == place:
                crash.install(None)
                deed()

        crash.install(hook)

    yield install
    crash.install(None)


@pytest.mark.parametrize(("place", "half"), [("apply.committed", False), ("apply.step", True)])
def test_a_host_that_becomes_read_only_in_the_middle_is_told_and_whole_once_it_is_not(
    tmp_path: Path, at: Callable[..., None], place: str, half: bool
) -> None:
    """Where taking back is as impossible as going on, it is said to be half done, and the next to come ends it."""
    with disk("tmpfs") as small:
        made = World(tmp_path / "home", small / "host", tmp_path / "delta")
        remount = ["mount", "-o", "remount", small, "-o"]
        at(place, lambda: subprocess.run([*remount, "ro"], check=True))
        with pytest.raises((Denied, Unavailable)) as caught:
            made.apply()
        assert ("half done" in caught.value.message) == half
        assert ("nothing of the workspace was applied" in caught.value.message) != half
        assert caught.value.hint
        with pytest.raises(Denied) as again:
            made.apply()
        assert ("still half done" in again.value.message) == half
        subprocess.run([*remount, "rw"], check=True)
        found = recover(made.home)
        assert {each.outcome for each in found} == {"completed" if half else "taken back"}
        assert made.is_applied() if half else made.shown() == made.old
        assert made.left() == []
        made.apply()
        assert made.is_applied()


def test_an_attribute_that_the_hosts_file_system_cannot_keep_is_named_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    with disk("tmpfs") as roomy, disk("ext4") as small:
        made = World(roomy / "home", small / "host", roomy / "delta")
        try:
            os.setxattr(made.delta / "edit", "user.large", bytes(60_000))
        except OSError:
            pytest.skip("this kernel's tmpfs keeps no attributes of that size")
        with pytest.raises(HostUnsupported) as caught:
            made.apply()
        assert "user.large" in caught.value.message
        assert "setfattr" in caught.value.hint
        assert (made.shown(), made.left()) == (made.old, [])
        # And the other way: into a state directory that cannot keep it.
        host = roomy / "other"
        host.mkdir()
        (host / "file").touch()
        os.setxattr(host / "file", "user.large", bytes(60_000))
        with pytest.raises(HostUnsupported):
            freeze(host, small / "home")
        assert os.listdir(small / "home/tmp") == []


@pytest.mark.parametrize("place", ["apply.checked", "apply.staged", "apply.committed", "apply.step"])
def test_a_host_directory_that_vanishes_in_the_middle_is_told_and_leaves_nothing(
    tmp_path: Path, at: Callable[..., None], place: str
) -> None:
    made = World(tmp_path / "home", tmp_path / "host", tmp_path / "delta")
    at(place, lambda: remove_tree(made.host))
    with pytest.raises((HostDrift, Unavailable)) as caught:
        made.apply()
    assert str(made.host) in caught.value.message
    assert caught.value.hint
    assert not made.host.exists()
    recover(made.home)
    assert os.listdir(made.home / "tmp") == []
