"""`kibo events`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from kibo.cli.options import Common
from kibo.cli.output import excerpt, print_json, print_value, visible
from kibo.cli.scheduled import scheduled
from kibo.runtime.waiting import Blocking
from kibo.runtime.waiting import run as drive
from kibo.schedule.following import events_since, follow
from kibo.schedule.submitting import Happened


def events(
    run: str,
    /,
    *,
    following: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Tell what has happened to a run, in order.

    Args:
        run: Its id, or the beginning of its id.
        following: Go on with what happens from now on, until it has ended.
        common: Options of every command.
    """
    with scheduled() as here:
        name, position, over = here.runs.called(run).id, 0, not following
        while True:
            if over:
                found = events_since(here.runs, name, position)
            else:
                found, over = drive(follow(Blocking(), here.runs, here.bell, name, position))
            for each in found:
                _print(each, as_json=common.json)
                position = each.position
            if over:
                return


def _print(each: Happened, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": each.kind, "at_s": each.at_s, "told": dict(each.told)})
        return
    when = datetime.fromtimestamp(each.at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    told = json.dumps(dict(each.told), ensure_ascii=False) if each.told else ""
    print_value(visible(f"{when}  {each.kind:<11} {excerpt(told, 200)}".rstrip()))
