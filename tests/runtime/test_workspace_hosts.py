"""Host directories that cannot be workspaces, and what becomes of those that are while a branch runs."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kibo
from kibo.branch.branch import Branch
from kibo.branch.hostdir import scan
from kibo.branch.hostdir.freeze import freeze
from kibo.model import errors
from kibo.store.database import Store
from locks import own_locks
from value_boxes import Values
from workspace_trials import as_root, as_user, in_a_fork, left_in, refused, tree

# -- which directories


def test_an_empty_directory_is_a_workspace_like_any_other(main: Branch, work: Path) -> None:
    box = main.spawn(Values(), workspace=work)
    assert box.exec("ls -A").stdout == ""
    assert main.diff() == []
    in_a_fork(main, box, "open('made', 'w').write('box')")
    main.apply()
    assert tree(work) == {"made": "-box", "of the parent": "-"}


def test_a_directory_that_cannot_be_meant_is_refused(
    main: Branch, work: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "file").touch()
    (work / "loop").symlink_to("loop")
    fifo = work / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setenv("HOME", str(work))
    (work / "alias").symlink_to(home)
    wanted: list[tuple[Any, type[errors.KiboError], str]] = [
        ("/", errors.InvalidInput, "whole file system"),
        (work, errors.InvalidInput, "home directory"),
        ("~", errors.FileMissing, "no directory"),
        (home, errors.InvalidInput, "state directory"),
        (home / "deltas", errors.InvalidInput, "state directory"),
        (work / "alias" / "tmp", errors.InvalidInput, "state directory"),
        (work / "file", errors.InvalidInput, "no directory"),
        (fifo, errors.InvalidInput, "no directory"),
        (work / "missing", errors.FileMissing, "no directory"),
        (work / "file" / "under", errors.InvalidInput, "no directory"),
        (work / "loop", errors.InvalidInput, "leads back"),
        (work / ("n" * 256), errors.PathTooLong, "too long"),
        (work / ("n/" * 2100), errors.PathTooLong, "too long"),
        ("", errors.InvalidInput, "names no directory"),
        ("a\0b", errors.InvalidInput, "names no directory"),
    ]
    for place, kind, words in wanted:
        refused(kind, lambda place=place: main.spawn(Values(), workspace=place), words)
    assert (main.instances, left_in(home)) == ({}, [])


@as_root
def test_a_directory_that_holds_home_directories_is_refused(main: Branch) -> None:
    own = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    refused(errors.InvalidInput, lambda: main.spawn(Values(), workspace=own), own, "home directory")


def test_a_state_directory_within_the_workspace_is_left_out(work: Path) -> None:
    (work / "file").write_text("x")
    inner = work / ".kibo"
    frozen = freeze(work, inner, flush=False)
    assert (os.listdir(frozen.layers[0] / ".kibo"), (frozen.layers[0] / "file").read_text()) == ([], "x")
    assert frozen.skipped == ((b".kibo", "Kibo's own state directory"),)


# -- what becomes of the directory meanwhile


def test_what_is_left_out_is_so_too_where_its_directory_changes_while_it_is_read(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / ".kibo").mkdir()
    list_before = scan.Scan._list

    def list_and_change(self: Any, fd: int, path: bytes) -> Any:
        found = list_before(self, fd, path)
        (work / "made meanwhile").touch()
        return found

    monkeypatch.setattr(scan.Scan, "_list", list_and_change)
    frozen = freeze(work, work / ".kibo")
    assert frozen.skipped == ((b".kibo", "Kibo's own state directory"),)
    assert sorted(os.listdir(frozen.layers[-1])) == [".kibo", "made meanwhile"]


def test_the_store_of_this_process_is_not_opened_where_it_lies_in_the_workspace(
    work: Path, home: Path
) -> None:
    (work / "file").write_text("host")
    with Store.open(f"sqlite:///{work}/history.db") as store:
        store.read(lambda tx: None)
        locks = own_locks(work)
        assert locks  # or this shows nothing
        with pytest.raises(errors.InvalidInput, match="is the store that this process uses"):
            freeze(work, home)
        assert own_locks(work) == locks
    for path in work.glob("history.db*"):
        path.unlink()
    assert freeze(work, home).entries == 1


def test_a_directory_that_is_gone_or_replaced_is_drift_until_it_is_back(
    main: Branch, work: Path, home: Path
) -> None:
    (work / "file").write_text("host")
    box = main.spawn(Values(), workspace=work)
    box.exec("echo box > file")
    away = work.with_name("away")
    work.rename(away)
    for replacement in (None, "directory", "link", "file"):
        if replacement == "directory":
            shutil.copytree(away, work)
        elif replacement == "link":
            work.symlink_to(away)
        elif replacement == "file":
            work.touch()
        error = refused(errors.HostDrift, main.apply, work, "gone")
        assert error.details["paths"] == [{"path": str(work), "how": "directory"}]
        assert "kibo checkout" in error.hint
        assert (away / "file").read_text() == "host"
        if replacement == "directory":
            assert (work / "file").read_text() == "host"
            shutil.rmtree(work)
        elif replacement is not None:
            work.unlink()
    away.rename(work)
    main.apply()
    assert ((work / "file").read_text(), left_in(home)) == ("box\n", [])


@as_user
@pytest.mark.parametrize(
    ("closed", "mode", "deed"),
    [("", 0o500, "written"), ("sub", 0o500, "written"), ("sub", 0, "read"), ("", 0, "read")],
)
def test_a_directory_that_was_closed_meanwhile_is_named_and_nothing_is_written(
    main: Branch, work: Path, home: Path, closed: str, mode: int, deed: str
) -> None:
    (work / "sub").mkdir()
    (work / "sub/file").write_text("host")
    (work / "file").write_text("host")
    box = main.spawn(Values(), workspace=work)
    box.exec("echo box > file; echo box > sub/file; echo box > sub/new")
    (work / closed).chmod(mode)
    error = refused(errors.Denied, main.apply, f"cannot be {deed}", "nothing of the workspace was applied")
    assert error.details["path"].startswith(str(work / closed))
    (work / closed).chmod(0o755)
    assert tree(work) == {"file": "-host", "sub": "d", "sub/file": "-host"}
    main.apply()
    assert tree(work) == {"file": "-box\n", "sub": "d", "sub/file": "-box\n", "sub/new": "-box\n"}
    assert left_in(home) == []


@as_root
def test_a_file_that_cannot_be_replaced_is_named_and_everything_before_it_is_taken_back(
    main: Branch, work: Path, home: Path
) -> None:
    for name in ("a", "m", "z"):
        (work / name).write_text("host")
    box = main.spawn(Values(), workspace=work)
    box.exec("for n in a m z; do echo box > $n; done")
    if subprocess.run(["chattr", "+i", work / "m"], capture_output=True).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        error = refused(errors.Denied, main.apply, work / "m", "nothing of the workspace was applied")
    finally:
        subprocess.run(["chattr", "-i", work / "m"], check=True)
    assert "lsattr" in error.hint
    assert (tree(work), left_in(home)) == ({"a": "-host", "m": "-host", "z": "-host"}, [])
    main.apply()
    assert tree(work) == {"a": "-box\n", "m": "-box\n", "z": "-box\n"}


def test_of_several_workspaces_none_is_applied_where_one_has_drifted(main: Branch, work: Path) -> None:
    for name in ("one", "two"):
        (work / name).mkdir()
        box = main.spawn(Values(), workspace=work / name, name=name)
        box.exec("echo box > file")
    (work / "two/file").write_text("host")
    refused(errors.HostDrift, main.apply, work / "two", "file")
    assert os.listdir(work / "one") == []


@as_user
def test_of_several_workspaces_it_is_said_which_were_applied_before_one_was_refused(
    main: Branch, work: Path
) -> None:
    for name in ("one", "two"):
        (work / name).mkdir()
        main.spawn(Values(), workspace=work / name, name=name).exec("echo box > file")
    (work / "two").chmod(0o500)
    error = refused(errors.Denied, main.apply, work / "two/file", "nothing of the workspace")
    assert error.details["applied"] == ["one"]
    assert (os.listdir(work / "one"), os.listdir(work / "two")) == (["file"], [])
    (work / "two").chmod(0o700)
    assert [done.created for done in main.apply().values()] == [(), (b"file",)]


@as_user
def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_there(main: Branch, work: Path) -> None:
    main.spawn(Values()).put("file", 1)
    main.snapshot("of a closed place")
    closed = work / "closed"
    closed.mkdir(mode=0o500)
    standing = kibo.wiring.runtime().records().standing()
    refused(
        errors.Denied, lambda: standing.write("of a closed place", closed / "out"), closed, "nothing was kept"
    )
    refused(
        errors.Denied,
        lambda: standing.send("of a closed place", closed / "out.kibo"),
        closed,
        "nothing was kept",
    )
    assert os.listdir(closed) == []


@pytest.fixture
def mount(work: Path) -> Iterator[Callable[..., Path]]:
    """Mounts something on a directory of the workspace, or on itself, until the test ends."""
    mounted: list[Path] = []

    def mount(place: Path, *options: str) -> Path:
        subprocess.run(["mount", *options, place], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in reversed(mounted):
        subprocess.run(["umount", place], capture_output=True)


@as_root
def test_what_is_mounted_over_the_directory_is_another(
    main: Branch, work: Path, home: Path, mount: Callable[..., Path]
) -> None:
    (work / "file").write_text("host")
    box = main.spawn(Values(), workspace=work)
    box.exec("echo box > file")
    mount(work, "-t", "tmpfs", "none")
    refused(errors.HostDrift, main.apply, work, "another directory")
    assert os.listdir(work) == []
    subprocess.run(["umount", work], check=True)
    mount(work, "--bind", str(work))
    subprocess.run(["mount", "-o", "remount,bind,ro", work], check=True)
    error = refused(
        errors.Denied, main.apply, work / "file", "Read-only", "nothing of the workspace was applied"
    )
    assert "mount it" in error.hint
    assert ((work / "file").read_text(), left_in(home)) == ("host", [])
    subprocess.run(["umount", work], check=True)
    main.apply()
    assert (work / "file").read_text() == "box\n"


@as_root
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize(
    "options", [("-t", "tmpfs", "-o", "mode=755", "none"), ("--bind",)], ids=["tmpfs", "bind"]
)
@pytest.mark.parametrize(
    "command", ["echo box > sub/new", "rm -r sub", "rm -r above", "echo box > above/inner/new"]
)
def test_nothing_is_written_through_a_mount_or_removed_with_it(
    main: Branch, work: Path, home: Path, mount: Callable[..., Path], when: str, options: Any, command: str
) -> None:
    place = work / ("sub" if "sub" in command else "above/inner")
    place.mkdir(parents=True)
    (work / "file").write_text("host")
    if options[0] == "--bind":
        other = Path(tempfile.mkdtemp(dir=work.parent))
        other.chmod(stat.S_IMODE(place.stat().st_mode))
        options = ("--bind", str(other))
    if when == "before":
        mount(place, *options)
    box = main.spawn(Values(), workspace=work)
    done = box.exec(f"{command} && echo box > file")
    assert done.returncode == 0, done.stderr
    if when == "meanwhile":
        mount(place, *options)
    if options[0] == "--bind" and command.startswith("echo"):
        main.apply()  # the same file system: part of the directory, then as at the freeze
        assert (place / "new").read_text() == "box\n"
        return
    error = refused(errors.HostDrift, main.apply, work, "mount")
    assert "unmount" in error.hint
    assert (os.listdir(place), (work / "file").read_text(), left_in(home)) == ([], "host", [])
    subprocess.run(["umount", place], check=True)
    main.apply()
    assert (work / "file").read_text() == "box\n"
