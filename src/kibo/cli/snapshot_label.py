"""`kibo snapshot label`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kibo.cli.branches import short, standing
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value


def snapshot_label(
    ref: str,
    label: str,
    /,
    *,
    remove: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Give a snapshot a name, by which it is found and kept. One that its tree has already moves here.

    Args:
        ref: A snapshot's or branch's id, the beginning of one, another label, or the name of a branch.
        label: The name, at most 200 characters.
        remove: Take the name away instead, from whichever snapshot of the tree has it.
        common: Options of every command.
    """
    with standing() as here:
        snapshot = here.point(ref)
        if remove:
            here.history.unlabel(snapshot.tree, label)
        else:
            here.history.label(snapshot.id, label)
    if common.json:
        print_json({"snapshot": snapshot.id, "tree": snapshot.tree, "label": label, "removed": remove})
    else:
        print_value(f"{label} {'is gone' if remove else f'names {short(snapshot.id)}'}")
