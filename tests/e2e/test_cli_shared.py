"""Shared directories from the command line: of boxes that one spawned instance has in a branch of its own."""

from __future__ import annotations

from pathlib import Path

from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures

DESK = f"{Path(__file__).parents[1] / 'desk_boxes.py'}:Desk"


def test_boxes_that_a_spawned_instance_has_share_from_call_to_call(cli: Cli) -> None:  # noqa: F811
    cli("spawn", DESK, "--name", "desk")
    cli("call", "desk", "begin")
    cli("call", "desk", "note", "from ada")
    assert cli("call", "desk", "noted").stdout == "from ada\n"
    cli("stop", "desk")
