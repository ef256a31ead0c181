"""`kibo recordings`."""

from __future__ import annotations

import time
from typing import Any

from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_table, print_value, size
from kibo.effects.recordings import Listed, Recordings
from kibo.runtime.layers.home import state_home


def recordings(*, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """List what was recorded: requests of boxes and the answers to them, for `replay=`.

    Args:
        common: Options of every command.
    """
    found = Recordings(state_home()).listed()
    if common.json:
        print_json([document(each) for each in found])
    elif not found:
        print_value('nothing was recorded: kibo.branch(goal, record="name") does')
    else:
        print_table(("NAME", "REQUESTS", "SIZE", "AGE"), [_row(each) for each in found])


def document(each: Listed) -> dict[str, Any]:
    """Returns a recording as JSON has it."""
    if each.stored is None:
        return {"name": each.name, "problem": each.problem}
    index = each.stored.index
    return {
        "name": each.name,
        "problem": "",
        "digest": each.stored.digest,
        "requests": len(index.exchanges),
        "bytes": each.stored.total_bytes,
        "age_s": round(time.time() - index.created_s, 3),
    }


def _row(each: Listed) -> tuple[str, ...]:
    if each.stored is None:
        return each.name, "damaged", "-", "-"
    index = each.stored.index
    age = duration(max(0.0, time.time() - index.created_s))
    return each.name, str(len(index.exchanges)), size(each.stored.total_bytes), age
