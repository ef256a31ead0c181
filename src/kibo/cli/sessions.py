"""`kibo sessions`."""

from __future__ import annotations

import time
from typing import Any

from kibo.cli.branches import records
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_table, print_value
from kibo.effects.sessions.leasing import Place
from kibo.effects.sessions.people import directory_of
from kibo.effects.sessions.register import ASKED, TAKEN, Register

#: How a session stands, by how its holder's lease does.
_STANDS = {ASKED: "waits for a person", TAKEN: "with a person"}


def sessions(*, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """List the sessions: who has each profile, since when, and what waits for a person."""
    with records() as here:
        register = Register(here.store)
        found = [_document(Place(register, here.home, row), row.version) for row in register.listed()]
    if common.json:
        print_json(found)
    elif not found:
        print_value("there are no sessions; kibo.session(name) makes one")
    else:
        rows = [
            (
                each["name"],
                each["state"],
                each["holder"] or "-",
                "-" if each["since_s"] is None else duration(time.time() - each["since_s"]),
                str(each["waiting"]),
                str(each["version"]),
                str(each["files"]),
                each["why"] or "-",
            )
            for each in found
        ]
        print_table(("NAME", "STATE", "HOLDER", "SINCE", "WAITING", "VERSION", "FILES", "WHY"), rows)


def _document(place: Place, version: int) -> dict[str, Any]:
    queue = place.register.queue(place.id)
    gone = place.gone(queue)
    alive = [row for row in queue if row.id not in gone]
    first = next((row for row in alive if row.epoch), None)
    files = place.versions.at(version)
    return {
        "name": place.name,
        "state": "free" if first is None else _STANDS.get(first.state, first.state),
        "holder": "" if first is None else first.holder,
        "since_s": None if first is None else first.since,
        "why": "" if first is None else first.why,
        "directory": "" if first is None else directory_of(place, first),
        "waiting": len(alive) - (first is not None),
        "version": version,
        "files": len(files),
        "bytes": sum(file.size for file in files.values()),
    }
