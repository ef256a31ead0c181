"""`kibo deny`."""

from __future__ import annotations

from kibo.cli.branches import records
from kibo.cli.effects import document
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value


def deny(effect: str, /, *, why: str = "", common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Refuse an effect that waits for a person, or that was approved and is not sent yet. It is never sent.

    Args:
        effect: Its id, or the beginning of its id.
        why: What the program in the box is told, with your name.
        common: Options of every command.
    """
    with records() as here:
        found = here.deny(effect, why)
    if common.json:
        print_json(document(found))
    else:
        print_value(f"{found.id} is refused, and never sent")
