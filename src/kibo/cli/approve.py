"""`kibo approve`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from kibo.cli.branches import records, short
from kibo.cli.effects import document
from kibo.cli.effects_show import facts, payload
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.effects.records import Effect, Exact
from kibo.model.errors import InvalidInput

#: What is returned where the answer was no.
_NO = 1


def approve(
    effect: str,
    /,
    *,
    yes: Annotated[bool, Parameter(negative="")] = False,
    digest: str | None = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Let an effect that waits for a person happen, once you have seen what exactly is sent.

    It is sent at once or, where it is held, when its branch is committed. What is approved is this payload, with
    placeholders where secrets go, and nothing else.

    Args:
        effect: Its id, or the beginning of its id.
        yes: Do not ask, and approve it as it is recorded now.
        digest: Do not ask, and approve it only if its payload has this digest.
        common: Options of every command.
    """
    asks = not yes and digest is None
    if asks and common.json:
        raise InvalidInput(
            "with --json nobody can be asked", hint="Say --yes, or --digest with what you have seen."
        )
    with records() as here:
        exact = here.ledger.get(effect)
        if asks and not _answer(exact):
            print_value("not approved")
            return _NO
        # What was shown, and what was read for --yes: not what may be there by now.
        found = here.approve(exact.effect.id, exact.digest if digest is None else digest)
    if common.json:
        print_json(document(found))
    else:
        print_value(
            f"{found.id} is approved{', and held until its branch is committed' * (found.state == 'held')}"
        )
    return 0


def _answer(exact: Exact) -> bool:
    """Shows a payload and asks. Every line of the payload is marked, so that none can pass for one of ours."""
    lines = [*facts(exact), "", *(f"| {line}" for text in payload(exact) for line in text.split("\n")), ""]
    if exact.request.upgrade:
        lines += ["It opens a connection. Nobody is asked about what is sent on that afterwards.", ""]
    print_value("\n".join(lines))
    sys.stdout.write(f"{_question(exact.effect)} Type yes to approve: ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _question(effect: Effect) -> str:
    return (
        f"{visible(effect.method)} {visible(effect.url)} ({short(effect.id)}, digest {effect.digest[:16]})."
    )
