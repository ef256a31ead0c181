"""`kibo explain`."""

from __future__ import annotations

from typing import Any

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.cli.scheduled import scheduled
from kibo.schedule.explaining import Explanation


def explain(run: str, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Say why a run is where it is, or which limit, rate, dependency, room, priority or share holds it back.

    Args:
        run: Its id, or the beginning of its id.
        common: Options of every command.
    """
    with scheduled() as here:
        found = here.explain(here.runs.called(run).id)
    if common.json:
        print_json(document(found))
    else:
        print_value(visible(str(found), "\n"))


def document(found: Explanation) -> dict[str, Any]:
    """Returns an explanation as JSON holds it."""
    return {
        "run": found.run,
        "state": found.state,
        "verdict": found.verdict,
        "since_s": round(found.since_s, 3),
        "node": found.node or None,
        "reasons": [each._asdict() for each in found.reasons],
        "within_s": found.within_s,
        "then": found.then or None,
    }
