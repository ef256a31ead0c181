"""`kibo sessions take`."""

from __future__ import annotations

from pathlib import Path

from kibo.cli.branches import records
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.effects.sessions.people import take
from kibo.wiring.sessions import place_of


def sessions_take(name: str, directory: Path, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Take a profile that a program waits for a person with, as a directory of yours.

    Go on with the files there, such as with a browser, and give them back: the program waits for that.

    Args:
        name: The session's name.
        directory: A new directory. Whoever reads it is signed in: it is for you alone.
        common: Options of every command.
    """
    with records() as here:
        taken = take(place_of(here, name, make=False), directory)
    if common.json:
        print_json({"name": name, "directory": str(directory), "why": taken.why, "holder": taken.holder})
        return
    print_value(
        f"{visible(taken.holder)} asks: {visible(taken.why)}\n"
        f"the profile is in {directory}; when you are done: kibo sessions give {name!r} {directory}"
    )
