"""`kibo effects`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from kibo.cli.branches import records, short
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_table, print_value, visible
from kibo.effects.records import Effect


def effects(branch: str | None = None, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """List what boxes have asked the outside world to change, and how each stands. Reads are not recorded.

    What waits for a person comes first, then the rest in the order in which it was asked for. Held: it waits until its
    branch is committed. Asking: it waits for `kibo approve`. In doubt: it was sent, and nobody knows whether it has
    happened; it is never sent again by itself.

    Args:
        branch: List what stands in this one, or was asked for in it: its id, the beginning of its id, or its name.
        common: Options of every command.
    """
    with records() as here:
        found = here.ledger.listed(None if branch is None else here.history.get(branch).id)
    found.sort(key=lambda effect: not effect.waits_for_person)
    if common.json:
        print_json([document(effect) for effect in found])
    elif not found:
        print_value("no box has asked the outside world to change anything")
    else:
        rows = [_row(effect) for effect in found]
        print_table(("ID", "STATE", "CLASS", "METHOD", "URL", "STATUS", "BRANCH", "AGE"), rows)


def document(effect: Effect) -> dict[str, Any]:
    """Returns an effect as JSON has it."""
    return asdict(effect) | {"age_s": round(time.time() - effect.created_s, 3)}


def _row(effect: Effect) -> tuple[str, ...]:
    return (
        short(effect.id),
        _state(effect),
        effect.effect,
        visible(effect.method),
        visible(effect.url),
        "-" if effect.status is None else str(effect.status),
        short(effect.branch) if effect.branch else "-",
        duration(time.time() - effect.created_s),
    )


def _state(effect: Effect) -> str:
    if effect.state != "held" or effect.approve_within_s is None:
        return effect.state
    return "held, asking" if effect.waits_for_person else "held, approved"
