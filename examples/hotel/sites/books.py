"""What a site has on record: rooms, who holds one for now, and who has booked one. In one SQLite file for all sites."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SCHEMA = """
CREATE TABLE IF NOT EXISTS room (
  site TEXT NOT NULL, name TEXT NOT NULL, cents INTEGER NOT NULL, extra INTEGER NOT NULL, PRIMARY KEY (site, name));
CREATE TABLE IF NOT EXISTS hold (
  id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, room TEXT NOT NULL, night TEXT NOT NULL,
  guest TEXT NOT NULL, state TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS taken ON hold (site, room, night) WHERE state != 'released';
"""
#: What a night costs as listed, and what is only said once a room is held: taxes, cleaning, breakfast.
ROOMS = [
    ("inn", "garden", 8900, 1200),
    ("inn", "attic", 7400, 1200),
    ("palace", "queen", 9900, 0),
    ("palace", "single", 8200, 0),
    ("lodge", "lake", 7900, 2900),
    ("lodge", "forest", 6900, 2900),
]
State = Literal["held", "booked", "released"]


@dataclass(frozen=True)
class Room:
    """A room as it is listed; `extra` is what comes on top, in cents a night as the price."""

    name: str
    cents: int
    extra: int

    @property
    def total(self) -> int:
        """What it really costs."""
        return self.cents + self.extra


@dataclass(frozen=True)
class Hold:
    """A room that somebody holds, has booked, or has released."""

    id: int
    site: str
    room: str
    night: str
    guest: str
    state: State


class Books:
    """The records of all sites. Not for use by two threads at once.

    Args:
        path: The SQLite file; made with the rooms when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(SCHEMA)
        self._db.executemany("INSERT OR IGNORE INTO room VALUES (?, ?, ?, ?)", ROOMS)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def free(self, site: str, night: str) -> list[Room]:
        """Lists the rooms of a site that nobody has for a night."""
        rows = self._db.execute(
            "SELECT name, cents, extra FROM room WHERE site = ? AND NOT EXISTS (SELECT 1 FROM hold WHERE "
            "hold.site = room.site AND room = name AND night = ? AND state != 'released') ORDER BY name",
            (site, night),
        )
        return [Room(*row) for row in rows]

    def room(self, site: str, name: str) -> Room | None:
        """Finds a room."""
        row = self._db.execute(
            "SELECT name, cents, extra FROM room WHERE site = ? AND name = ?", (site, name)
        ).fetchone()
        return None if row is None else Room(*row)

    def hold(self, site: str, room: str, night: str, guest: str) -> Hold | None:
        """Holds a room for somebody. None where it is not free."""
        try:
            (number,) = self._db.execute(
                "INSERT INTO hold (site, room, night, guest, state) SELECT site, name, ?, ?, 'held' FROM room "
                "WHERE site = ? AND name = ? RETURNING id",
                (night, guest, site, room),
            ).fetchone() or (0,)
        except sqlite3.IntegrityError:
            return None
        return self.find(site, number)

    def find(self, site: str, number: int) -> Hold | None:
        """Finds a hold of a site."""
        row = self._db.execute(
            "SELECT id, site, room, night, guest, state FROM hold WHERE site = ? AND id = ?", (site, number)
        ).fetchone()
        return None if row is None else Hold(*row)

    def move(self, site: str, number: int, state: State) -> bool:
        """Books or releases a room that is held. False where it is not."""
        done = self._db.execute(
            "UPDATE hold SET state = ? WHERE site = ? AND id = ? AND state = 'held'", (state, site, number)
        )
        return done.rowcount == 1

    def all(self) -> list[Hold]:
        """Lists everything that was ever held, oldest first."""
        rows = self._db.execute("SELECT id, site, room, night, guest, state FROM hold ORDER BY id")
        return [Hold(*row) for row in rows]
