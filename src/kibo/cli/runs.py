"""`kibo runs`."""

from __future__ import annotations

import time
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.cli.branches import short
from kibo.cli.options import Common
from kibo.cli.output import duration, excerpt, print_json, print_table, print_value
from kibo.cli.scheduled import scheduled
from kibo.schedule.run import Run
from kibo.schedule.work import read_work


def runs(
    run: str | None = None,
    /,
    *,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,
    tenant: str | None = None,
    most: int = 100,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List runs that have not ended, the newest first.

    Args:
        run: List all of its tree alone, those it was forked into among them: its id, or the beginning of its id.
        all: List those that have ended too.
        tenant: List those of one tenant alone.
        most: List so many at most.
        common: Options of every command.
    """
    with scheduled() as here:
        if run is None:
            found = here.runs.listed(most, ended=all, tenant=tenant)
        else:
            found = here.runs.tree(here.runs.called(run).id)
        actions = {each.id: read_work(each.id, here.work(each.id)).action for each in found}
    if common.json:
        print_json([document(each, actions[each.id]) for each in found])
    elif not found:
        print_value("no run is open" + ("" if all else "; --all lists those that have ended"))
    else:
        print_table(
            ("RUN", "STATE", "AGE", "TRIES", "ACTION", "NAME", "TENANT", "FAILURE"),
            [_row(each, actions[each.id]) for each in found],
        )


def _row(run: Run, action: str) -> tuple[str, ...]:
    failure = "" if run.failure is None else excerpt(f"{run.failure.code}: {run.failure.message}", 60)
    age = duration(max(0.0, time.time() - run.created.at_s))
    name = run.request.name or run.variation
    return (
        "  " * run.depth + short(run.id), run.state, age, str(run.epoch), action, excerpt(name, 30),
        run.request.tenant, failure,
    )  # fmt: skip


def document(run: Run, action: str) -> dict[str, Any]:
    """Returns a run as JSON holds it."""
    return {
        "id": run.id,
        "name": run.request.name,
        "state": run.state,
        "action": action,
        "tenant": run.request.tenant,
        "priority": run.request.priority,
        "tree": run.tree,
        "parent": run.parent,
        "attempts": run.epoch,
        "failure": None if run.failure is None else run.failure._asdict(),
        "variation": run.variation,
        "node": None if run.live is None else run.live.node,
        "created_s": run.created.at_s,
        "entered_s": run.entered.at_s,
    }
