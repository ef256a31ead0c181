"""`kibo effects resolve`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kibo.cli.branches import records
from kibo.cli.effects import document
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.effects.approvals import person
from kibo.model.errors import InvalidInput


def effects_resolve(
    effect: str,
    /,
    *,
    done: Annotated[bool | None, Parameter(negative="--not-done")] = None,
    undone: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Say whether an effect in doubt has happened, once you have found out, or that one is undone.

    It is not sent again in either case.

    A box that asks for the same with the same key is refused where it has happened, and may try again where it has not.

    Args:
        effect: Its id, or the beginning of its id.
        done: Whether it has happened.
        undone: You have undone it: it was to be, and could not be.
        common: Options of every command.
    """
    if (done is None) is not undone:
        raise InvalidInput(
            "what you have found out was not said, or twice",
            hint="Say one of --done, --not-done and --undone.",
        )
    with records() as here:
        if done is None:
            found = here.ledger.settle_undone(effect, by=person())
        else:
            found = here.ledger.resolve(effect, done=done, by=person())
    if common.json:
        print_json(document(found))
    else:
        print_value(f"{found.id} is {found.state.replace('_', ' ')}")
