"""A program that uses a session, and a person's command: arguments are the state directory and what to do.

``save``: leases, loads, saves one more file, ends. ``fork``: saves in a fork and commits it. ``ask``: asks for a person
and waits. ``take`` and ``give``: the person, with a directory beside the state directory.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from kibo.branch.history import History
from kibo.effects.sessions.people import give, take
from kibo.runtime.waiting import Blocking, run
from kibo.store.database import Store
from session_places import Box, end, leased, profile


def main(home: Path, what: str) -> None:
    store = Store.open(f"sqlite:///{home}/history.db")
    place = profile(store, home)
    mine = home.parent / "mine"
    if what == "take":
        take(place, mine)
        return
    if what == "give":
        (mine / "code").write_bytes(b"1234")
        run(give(place, mine, Blocking(), 20.0))
        return
    history = History(store)
    lease = leased(place, 20.0)
    box = Box(home.parent / "box")
    files = box.load(lease)
    if what == "ask":
        run(lease.hand_over("enter the code", 30.0))
        print(box.load(lease).get("code", b"").decode(), flush=True)
    else:
        if what == "fork":
            (fork,) = history.fork(history.create().id)
            loaded = {(place.id, "box"): place.versions.newest()}
            box.copy = replace(box.copy, lineage=(fork.id,), loaded=loaded)
        box.save(lease, {**files, f"{len(files)}": b"content"})
        if what == "fork":
            history.commit(fork.id)
    end(lease)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
