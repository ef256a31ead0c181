"""`kibo snapshot list`."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from kibo.cli.branches import short, standing
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_table


def snapshot_list(
    ref: str,
    /,
    *,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))] = 100,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List a snapshot and those that it descends from, the newest first.

    Args:
        ref: A snapshot's or branch's id, the beginning of one, a label, or the name of a branch.
        limit: How many at most.
        common: Options of every command.
    """
    with standing() as here:
        found = here.history.snapshots(here.point(ref).id, limit)
    if common.json:
        print_json(
            [
                {
                    "id": each.id,
                    "branch": each.branch,
                    "kind": each.kind,
                    "state": each.state,
                    "labels": list(each.labels),
                    "instances": sorted((each.world or {}).get("instances", {})),
                    "entries": each.entries,
                    "created_s": each.created_s,
                }
                for each in found
            ]
        )
        return
    print_table(
        ("SNAPSHOT", "BRANCH", "KIND", "FILES", "AGE", "LABELS"),
        [
            (
                short(each.id),
                short(each.branch),
                each.kind,
                "there" if each.state == "whole" else each.state,
                duration(time.time() - each.created_s),
                ", ".join(each.labels),
            )
            for each in found
        ],
    )
