"""`kibo effects undo`."""

from __future__ import annotations

import sys

from kibo.cli.effects import document
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.references import load_box
from kibo.wiring.undoing import undo


def effects_undo(
    ref: str,
    /,
    *boxes: str,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Undo what is left to undo of a program that has ended: fresh instances do, over the files of its branches.

    The newest call is undone first, each at most once. What could not be undone, or may be undone already, is told, and
    the command exits with 1.

    Args:
        ref: An effect's id; or a branch, for all that was done in it and below it.
        boxes: Where the boxes are defined that were in those branches: module:Name, file.py:Name, or a sum of such.
        common: Options of every command.
    """
    done = undo(ref, *map(load_box, boxes))
    if common.json:
        print_json([document(effect) for effect in done.effects])
    else:
        told = (
            f"{each.id} is {each.state.replace('_', ' ')}{f': {each.reason}' if each.reason else ''}"
            for each in done.effects
        )
        print_value("\n".join(told))
    if done.left:
        sys.exit(1)
