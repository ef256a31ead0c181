"""`kibo diff`."""

from __future__ import annotations

import sys

from kibo.cli.instances import open_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json, size

_LETTERS = {"added": "A", "changed": "M", "removed": "D"}


def diff(instance: str, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """List the files that an instance has changed since it was spawned: A added, M changed, D removed.

    Args:
        instance: Its id, the first digits of its id, or its name.
        common: Options of every command.
    """
    changes = open_instance(instance).diff()
    if common.json:
        print_json([{"kind": change.kind, "path": change.path, "size": change.size} for change in changes])
        return
    for change in changes:
        shown = "" if change.kind == "removed" or change.path.endswith("/") else f"  ({size(change.size)})"
        sys.stdout.write(f"{_LETTERS[change.kind]} {change.path}{shown}\n")
