"""`kibo sessions give`."""

from __future__ import annotations

from pathlib import Path

from kibo.cli.branches import counted, records
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.effects.sessions.people import give
from kibo.model.durations import seconds
from kibo.runtime.waiting import Blocking, run
from kibo.wiring.sessions import place_of


def sessions_give(
    name: str,
    directory: Path,
    /,
    *,
    wait: str = "0",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Give a profile back: what you changed is merged, and the program that waits for it goes on.

    Where none waits any more, it is merged all the same, as soon as no program has the profile. A directory that was
    not taken is brought in too: that is how a session begins with a profile that you have. The directory stays.

    Args:
        name: The session's name; one that is not there is made.
        directory: The directory that you took it to, or any that has a profile's files.
        wait: How long to wait for a program that has the profile and waits for nobody: 90, 90s, 1.5m, 2h.
        common: Options of every command.
    """
    with records() as here:
        given = run(give(place_of(here, name, make=True), directory, Blocking(), seconds(wait)))
    written = given.written
    if common.json:
        print_json(
            {
                "name": name,
                "version": written.version,
                "changed": written.changed,
                "conflicts": written.conflicts,
                "left_out": given.left_out,
                "awaited": given.awaited,
            }
        )
        return
    lines = [
        f"{visible(name)} is at version {written.version}: {counted(len(written.changed), 'file', 'files')} changed; "
        + ("the program that waited goes on" if given.awaited else "no program waited for it")
    ]
    if written.conflicts:
        lines.append(
            f"changed meanwhile by a program too, and now as you have it: {_listed(written.conflicts)}"
        )
    if given.left_out:
        lines.append(f"left out, since links are no part of a profile: {_listed(given.left_out)}")
    lines.append(f"{directory} is still there, and whoever reads it is signed in")
    print_value("\n".join(lines))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(visible, names))
