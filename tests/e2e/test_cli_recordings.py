"""Recordings on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import recording_files as made
from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures


@pytest.fixture
def folder(home: Path) -> Path:  # noqa: F811
    """Where two recordings lie, one of them torn."""
    folder = home / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    made.write(folder / "shop.recording", {b"/a": b"one", b"/\x9b": b"two\x1b[2J"}, "shop")
    (folder / "torn.recording").write_bytes((folder / "shop.recording").read_bytes()[:-1])
    return folder


def test_recordings_are_listed_and_shown_to_the_byte(cli: Cli, folder: Path) -> None:  # noqa: F811
    (shop, torn) = cli.json("recordings")
    assert (shop["name"], shop["requests"], shop["problem"]) == ("shop", 2, "")
    assert torn["name"] == "torn"
    assert "cut short" in torn["problem"]
    assert "damaged" in cli("recordings").stdout
    assert "https://shop.example/\\x9b" in cli("recordings", "show", "shop").stdout
    shown = cli("recordings", "show", "shop", "2").stdout
    assert "answer    200" in shown
    assert "two\\x1b[2J" in shown
    assert "\x1b" not in shown
    (exact,) = cli.json("recordings", "show", "shop", "1")
    assert exact["answer"]["body"] == {"base64": "b25l"}


def test_recordings_are_exported_imported_and_removed(cli: Cli, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "kept.recording"
    exported = cli.json("recordings", "export", "shop", str(file))
    assert file.read_bytes() == (folder / "shop.recording").read_bytes()
    again = cli.json("recordings", "import", str(file), status=65)
    assert "is there already" in again["error"]["message"]
    assert cli.json("recordings", "import", str(file), "--name", "again")["digest"] == exported["digest"]
    refused = cli.json("recordings", "import", str(folder / "torn.recording"), "--name", "worse", status=65)
    assert refused["error"]["code"] == "recording.invalid"
    removed = cli.json("recordings", "rm", "shop", "again", "torn")
    assert removed == {"removed": ["shop", "again", "torn"]}
    assert cli.json("recordings", "rm", "shop", status=66)["error"]["code"] == "recording.unknown"
    assert not list(folder.iterdir())
