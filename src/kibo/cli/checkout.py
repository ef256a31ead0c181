"""`kibo checkout`."""

from __future__ import annotations

import os
from pathlib import Path

from kibo.cli.branches import standing
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.model.errors import InvalidInput


def checkout(
    ref: str,
    /,
    *,
    name: str = "",
    to: Path | None = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Make a branch at a snapshot, to go on from in Python; or, with --to, write the files of its workspaces.

    Args:
        ref: A snapshot's or branch's id, the beginning of one, a label, or the name of a branch.
        name: What to call the branch.
        to: A new directory for what its instances see at /work, one below it for each where there are several; no
            branch is made then.
        common: Options of every command.
    """
    if to is not None:
        if name:
            raise InvalidInput("--to makes no branch that --name could name", hint="Take one of the two.")
        _write(ref, to, as_json=common.json)
        return
    with standing() as here:
        branch, labels = here.checkout(ref, name)
    line = continuing(branch.id, labels)
    if common.json:
        print_json(
            {"id": branch.id, "parent": branch.parent, "head": branch.head, "boxes": labels, "python": line}
        )
    else:
        print_value(f"{branch.id}\n{line}")


def continuing(branch: str, labels: tuple[str, ...]) -> str:
    """Returns the line of Python that goes on from a branch."""
    boxes = "".join(f", {' + '.join(f'{part}()' for part in _parts(label))}" for label in labels)
    return f'kibo.checkout("{branch}"{boxes})'


def _parts(label: str) -> list[str]:
    return [part.removesuffix("()") for part in label.split(" + ")]


def _write(ref: str, to: Path, *, as_json: bool) -> None:
    with standing() as here:
        places, dropped = here.write(ref, to)
    left_out = [os.fsdecode(path) for path in dropped]
    if as_json:
        print_json({"written": {name: str(place) for name, place in places.items()}, "dropped": left_out})
        return
    lines = [f"{name}: {place}" for name, place in places.items()]
    print_value("\n".join([*lines, *(f"left out (socket or device): {visible(path)}" for path in left_out)]))
