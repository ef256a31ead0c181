"""`kibo snapshot import`."""

from __future__ import annotations

from pathlib import Path

from kibo.cli.branches import standing
from kibo.cli.checkout import continuing
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value


def snapshot_import(
    file: Path,
    /,
    *,
    name: str = "imported",
    goal: str = "",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Make a tree of a snapshot that was exported here or elsewhere. A damaged file is refused as a whole.

    Args:
        file: What `kibo snapshot export` wrote.
        name: What to call the root.
        goal: What the tree is for; by default what the exported one was for.
        common: Options of every command.
    """
    with standing() as here:
        done = here.receive(file, name, goal)
    line = continuing(done.branch.id, done.labels)
    if common.json:
        facts = {"id": done.branch.id, "head": done.branch.head, "digest": done.digest}
        print_json({**facts, "boxes": done.labels, "python": line})
    else:
        print_value(f"{done.branch.id}\n{line}")
