"""Recordings whose makers are killed on the way, and disks that fill up: there is a whole one, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import recording_files as made
from fault.recording_user import FULL, LOST
from kibo.effects.recordings import Recordings
from kibo.model.errors import HostDiskFull, RecordingInvalid
from kibo.model.ids import RecordingId
from small_disks import mounted

pytestmark = pytest.mark.fault

PROGRAM = Path(__file__).with_name("recording_user.py")
KILLED = -signal.SIGKILL


def run(home: Path, *words: str, crash: str = "") -> int:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if crash:
        variables["KIBO_CRASH_AT"] = crash
    return subprocess.run([sys.executable, PROGRAM, home, *words], env=variables, timeout=50).returncode


def targets(home: Path, name: str = "it") -> list[bytes]:
    with Recordings(home).opened(name) as stored:
        return [each.question.target for each in stored.index.exchanges]


def names(home: Path) -> list[str]:
    return [each.name for each in Recordings(home).listed()]


@pytest.mark.parametrize(
    ("crash", "ended", "there"),
    [
        # The gateway.
        ("recording.before_index", LOST, False),
        ("recording.before_end", LOST, False),
        ("recording.before_flush", LOST, False),
        ("recording.flushed", LOST, False),
        # The program itself.
        ("recording.before_rename", KILLED, False),
        ("recording.renamed", KILLED, True),
    ],
)
def test_wherever_its_maker_is_killed_a_recording_is_whole_or_the_one_before_stays(
    tmp_path: Path, crash: str, ended: int, there: bool
) -> None:
    home = tmp_path / "home"
    made.write(_folder(home) / "it.recording", {b"/before": b"1"})
    assert run(home, "record", "/a/1", "/b/100000", crash=crash) == ended
    assert targets(home) == ([b"/a/1", b"/b/100000"] if there else [b"/before"])
    assert names(home) == ["it"]
    # What was left goes with the next that begins.
    fd, part = Recordings(home).begin(RecordingId.new())
    os.close(fd)
    assert sorted(path.name for path in (home / "recordings").iterdir()) == [part.name, "it.recording"]


@pytest.mark.parametrize(
    ("what", "crash", "there"),
    [
        ("export", "recording.copied", False),
        ("export", "recording.linked", True),
        ("import", "recording.copied", False),
        ("import", "recording.linked", True),
    ],
)
def test_a_killed_export_or_import_leaves_a_whole_file_or_none(
    tmp_path: Path, what: str, crash: str, there: bool
) -> None:
    home = tmp_path / "home"
    made.write(_folder(home) / "it.recording", {b"/": b"1"})
    file = (
        made.write(tmp_path / "file.recording", {b"/": b"2"})
        if what == "import"
        else tmp_path / "out.recording"
    )
    assert run(home, what, str(file), crash=crash) == KILLED
    where = file if what == "export" else home / "recordings" / "imported.recording"
    assert where.exists() == there
    assert names(home) == (["imported", "it"] if what == "import" and there else ["it"])
    if there:
        assert targets(home, str(where)) == [b"/"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems of its own")
def test_on_a_disk_that_fills_up_the_box_goes_on_and_nothing_is_left_of_the_recording() -> None:
    with mounted("tmpfs", "size=3m") as home:
        assert run(home, "record", "/a/1", "/much/1000000", "/b/2") == FULL
        assert list((home / "recordings").iterdir()) == []
        assert run(home, "record", "/a/1") == 0
        assert names(home) == ["it"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems of its own")
def test_an_import_without_room_leaves_nothing(tmp_path: Path) -> None:
    file = made.write(tmp_path / "file.recording", {b"/": os.urandom(2 << 20)})
    with mounted("tmpfs", "size=1m") as home:
        with pytest.raises(HostDiskFull, match="is full"):
            Recordings(home).receive(file)
        assert list((home / "recordings").iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "link to nowhere"])
def test_what_is_no_file_is_no_recording(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.recording"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.symlink_to(path)
    with pytest.raises(RecordingInvalid):
        Recordings(tmp_path).receive(path)


def _folder(home: Path) -> Path:
    folder = home / "recordings"
    folder.mkdir(parents=True)
    return folder
