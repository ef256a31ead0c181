"""`kibo cancel`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kibo.cli.branches import counted, short
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.scheduled import scheduled


def cancel(
    run: str,
    /,
    *,
    rollback: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Cancel a run and all that are part of it, for good.

    Args:
        run: Its id, or the beginning of its id.
        rollback: Undo what it has done outside, as far as it can be.
        common: Options of every command.
    """
    with scheduled() as here:
        found = here.runs.called(run)
        done = here.runs.cancel(found.id, rollback=rollback, why="kibo cancel")
    if common.json:
        print_json({"cancelled": done})
    elif done:
        print_value(f"{counted(len(done), 'run is', 'runs are')} cancelled")
    else:
        print_value(f"{short(found.id)} is {found.state}: nothing was to be cancelled")
