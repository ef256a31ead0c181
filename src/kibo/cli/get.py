"""`kibo get`."""

from __future__ import annotations

import time
from typing import Any

from kibo.cli.branches import short
from kibo.cli.options import Common
from kibo.cli.output import excerpt, print_json, print_table, print_value
from kibo.cli.scheduled import scheduled
from kibo.model.errors import InvalidInput, WantedUnknown
from kibo.schedule.applying import Standing


def get(
    kind: str | None = None,
    name: str | None = None,
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List what is wanted, and what has become of it; see `kibo apply -f`.

    Args:
        kind: List that kind alone: triggers. Or one thing, as trigger/NAME.
        name: Show the one of that name alone.
        common: Options of every command.
    """
    word, slash, called = (kind or "").partition("/")
    if slash and name is not None:
        raise InvalidInput("two names", hint="Give trigger/NAME, or trigger and NAME.")
    called = called if slash else name or ""
    wanted = word.lower().removesuffix("s")
    if word and wanted != "trigger":
        raise InvalidInput(f"unknown kind {word!r}", hint="There is trigger.")
    with scheduled() as here:
        found = [each for each in here.wants.standing() if called in ("", each.trigger.name)]
    if called and not found:
        raise WantedUnknown(f"there is no {wanted}/{called}", details={"kind": wanted, "name": called})
    if common.json:
        print_json([_document(each) for each in found])
    elif not found:
        print_value("nothing is wanted; `kibo apply -f FILE` says what is")
    else:
        print_table(("NAME", "WHEN", "NEXT", "RUN", "STATE", "PROBLEM"), [_row(each) for each in found])


def _row(one: Standing) -> tuple[str, ...]:
    trigger = one.trigger
    tick = None if trigger.topic else trigger.schedule.after(time.time())
    coming = "" if tick is None else f"{trigger.schedule.moment(tick):%Y-%m-%d %H:%M %Z}"
    run, state = ("", "") if one.run is None else (short(one.run), one.state)
    return f"{trigger.kind}/{trigger.name}", trigger.when, coming, run, state, excerpt(one.problem, 60)


def _document(one: Standing) -> dict[str, Any]:
    trigger = one.trigger
    when: dict[str, Any]
    if trigger.topic:
        when = {"topic": trigger.topic, "branch": trigger.branch or None}
    else:
        when = {
            "cron": trigger.cron, "zone": trigger.zone, "late_s": trigger.late_s,
            "next_s": trigger.schedule.after(time.time()),
        }  # fmt: skip
    return {
        "kind": trigger.kind,
        "name": trigger.name,
        **when,
        "run": one.run,
        "run_state": one.state or None,
        "problem": one.problem or None,
        "applied_s": one.applied_s,
    }
