"""Records of this machine's own that somebody damaged: named and set aside, never believed, and in nobody's way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.plan import plan_apply
from kibo.branch.hostdir.recover import recover
from kibo.model import errors
from kibo.wiring.records import Records

APPLY = """
import sys
from pathlib import Path
from kibo.branch.hostdir.apply import apply
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.plan import plan_apply
apply(plan_apply(Frozen.load(Path(sys.argv[1]), sys.argv[2]), [sys.argv[3]]))
"""


class World:
    """A host directory whose apply was killed half-way, and what lies beside it."""

    def __init__(self, place: Path) -> None:
        self.home, self.host, self.delta, self.beside = (
            place / name for name in ("home", "host", "delta", "beside")
        )
        for path in (self.host, self.delta, self.beside):
            path.mkdir()
        (self.host / "a").write_text("old a")
        (self.host / "b").write_text("old b")
        (self.beside / "precious").write_text("precious")
        self.frozen = freeze(self.host, self.home, flush=False)
        for name in ("a", "b"):
            (self.delta / name).write_text(f"new {name}")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "KIBO_CRASH_AT": "apply.step",
        }
        command = [sys.executable, "-c", APPLY, str(self.home), self.frozen.id, str(self.delta)]
        assert subprocess.run(command, env=environment, timeout=60).returncode == -signal.SIGKILL
        (self.journal,) = (self.home / "workspaces/applies").iterdir()

    def note(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.journal / "staged.json").read_bytes())
        return found

    def shown(self) -> dict[str, str]:
        return {name: (self.host / name).read_text() for name in os.listdir(self.host)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def changed(key: str, value: Any) -> Any:
    return lambda note: note | {key: value}


def step(key: str, value: Any) -> Any:
    return lambda note: note | {"steps": [note["steps"][0] | {key: value}, *note["steps"][1:]]}


#: What can be wrong with a record that is well-formed JSON.
WRONG = {
    "a list": lambda note: [note],
    "no steps": lambda note: {key: value for key, value in note.items() if key != "steps"},
    "steps of another kind": changed("steps", "all"),
    "a field too many": changed("more", 1),
    "a device in words": changed("device", "sda"),
    "a host that is relative": changed("host", "host"),
    "a freeze that climbs": changed("frozen", "../../../beside"),
    "a path that climbs": step("path", "../beside/precious"),
    "an absolute path": step("path", "/etc/passwd"),
    "an empty path": step("path", ""),
    "a path with an end in it": step("path", "a\0b"),
    "a temporary name that climbs": step("temporary", "../beside/precious"),
    "a temporary name that climbs after its mark": step("temporary", ".kibo-apply-/../../beside/precious"),
    "a temporary name of the user's": step("temporary", "b"),
    "an identity in words": step("old", {"dev": "1", "ino": 1, "mode": 1, "size": 1, "mtime_ns": 1}),
    "an identity that lacks something": step("new", {"dev": 1}),
    "a look with set-id": step("look", [0o644, {}, 0o104755, {}]),
    "a look with a capability": step("look", [0o644, {}, 0o755, {"security.capability": "00"}]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_journal_that_says_what_none_can_is_set_aside_whole(world: World, wrong: str) -> None:
    text = json.dumps(WRONG[wrong](world.note()))
    (world.journal / "staged.json").write_text(text)
    set_aside(world, text)


@pytest.mark.parametrize("text", ["", "{", "\0" * 100, "[" * 100_000, '{"host": "\udc80"}'])
def test_a_journal_that_is_no_json_is_set_aside_whole(world: World, text: str) -> None:
    (world.journal / "staged.json").write_text(text, errors="surrogateescape")
    set_aside(world, text)


def set_aside(world: World, text: str) -> None:
    before = world.shown()
    (found,) = recover(world.home)
    assert found.outcome == "unreadable"
    assert found.host == world.home / "workspaces/unreadable" / world.journal.name
    assert (found.host / "staged.json").read_text(errors="surrogateescape") == text
    assert world.shown() == before
    assert os.listdir(world.beside) == ["precious"]
    assert recover(world.home) == []


def test_a_history_opens_past_a_damaged_journal_and_tells_what_it_left(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (world.journal / "staged.json").write_text("{")
    left = [name for name in os.listdir(world.host) if name.startswith(".kibo-apply-")]
    Records(world.home).close()
    (said,) = caplog.messages
    assert str(world.home / "workspaces/unreadable" / world.journal.name) in said
    prefix = said.partition(".kibo-apply-")[2].partition("*")[0]
    assert left
    assert all(name.startswith(f".kibo-apply-{prefix}") for name in left)
    caplog.clear()
    Records(world.home).close()
    assert caplog.messages == []


def test_another_apply_is_not_held_up_by_a_damaged_journal(world: World, tmp_path: Path) -> None:
    (world.journal / "staged.json").write_text("{")
    other, delta = tmp_path / "other", tmp_path / "delta2"
    other.mkdir()
    delta.mkdir()
    (delta / "made").write_text("made")
    frozen = freeze(other, world.home, flush=False)
    assert apply(plan_apply(frozen, [delta])).created == (b"made",)
    assert world.journal.exists()


def test_what_lies_among_the_journals_and_is_none_stops_nobody(world: World) -> None:
    applies = world.journal.parent
    (applies / "note").write_text("of the user")
    (applies / "empty").mkdir()
    (applies / "other").mkdir()
    (applies / "other" / "file").touch()
    outcomes = sorted(found.outcome for found in recover(world.home))
    assert outcomes == ["completed", "unreadable", "unreadable"]
    assert world.shown() == {"a": "new a", "b": "new b"}
    assert (world.home / "workspaces/unreadable/note").read_text() == "of the user"


def test_a_damaged_note_of_the_last_freeze_only_costs_reading_everything_again(world: World) -> None:
    recover(world.home)
    for damage in ("frozen.json", "manifest.db"):
        last = freeze(world.host, world.home, flush=False)
        (last.directory / damage).write_bytes(b"\0" * 5000)
        (last.directory / "flushed").touch()
        again = freeze(world.host, world.home, flush=False)
        assert (again.copied, len(again.layers)) == (2, 1)
        with pytest.raises(errors.NotFound):
            type(last).load(world.home, last.id)


def test_a_manifest_that_is_damaged_behind_its_beginning_begins_anew(world: World) -> None:
    recover(world.home)
    for number in range(300):
        (world.host / f"file-{number}").touch()
    last = freeze(world.host, world.home, flush=False)
    path = last.directory / "manifest.db"
    data = bytearray(path.read_bytes())
    data[4096 * 4 :] = b"\xff" * (len(data) - 4096 * 4)
    path.write_bytes(data)
    with pytest.raises(sqlite3.DatabaseError), last.manifest() as manifest:
        manifest.frozen_in(b"")
    with pytest.raises(errors.WrongState, match="cannot be read"):
        (world.delta / "file-1").write_text("changed")
        plan_apply(last, [world.delta])
    assert freeze(world.host, world.home, flush=False).copied == 302
