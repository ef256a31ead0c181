"""`kibo sessions revoke`."""

from __future__ import annotations

from kibo.cli.branches import records
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.effects.sessions.people import revoke
from kibo.wiring.sessions import place_of


def sessions_revoke(name: str, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Take a profile from who has it: nothing of theirs is saved any more, and the next who waits has it.

    Args:
        name: The session's name.
        common: Options of every command.
    """
    with records() as here:
        ended = revoke(place_of(here, name, make=False))
    if common.json:
        print_json({"name": name, "holder": None if ended is None else ended.holder})
    elif ended is None:
        print_value(f"nobody had {visible(name)}")
    else:
        print_value(f"{visible(name)} was taken from {visible(ended.holder)}")
