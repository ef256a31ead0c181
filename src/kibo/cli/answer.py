"""`kibo answer`."""

from __future__ import annotations

from typing import Literal

from kibo.cli.branches import short
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.scheduled import scheduled
from kibo.effects.approvals import person


def answer(
    run: str,
    verdict: Literal["retry", "abandon"],
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Say what becomes of a run that has failed and asks a person.

    Args:
        run: Its id, or the beginning of its id.
        verdict: Whether it is tried again, or given up.
        common: Options of every command.
    """
    with scheduled() as here:
        found = here.runs.called(run).id
        here.runs.answer(found, verdict, person())
        state = here.runs.get(found).state
    if common.json:
        print_json({"run": found, "state": state})
    else:
        print_value(f"{short(found)} is {state}")
