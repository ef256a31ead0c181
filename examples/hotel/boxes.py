"""A box for each booking site. All do the same four things, and no two sites have the same pages.

To hold a room can be undone, and `release` undoes it: so an attempt in a fork holds its room at once, sees there what
it really costs, and lets go of it when another attempt has won. To book cannot be undone: it waits until its attempt
has won, and then for a person.
"""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kibo import Allow, Box, action

QUOTE = Path("/work/quote")  # in a box: what the room that it holds costs, for whoever compares


@dataclass(frozen=True)
class Offer:
    """A room as the site lists it; what it really costs is known once it is held."""

    room: str
    cents: int


@dataclass(frozen=True)
class Hold:
    """A room that is held, and what the site wants to see when it is booked or released."""

    number: str
    room: str
    cents: int
    token: str = ""


def rules(host: str, to: str | None = None) -> list[Allow]:
    """What a box may do at a site: read and hold; and book, if a person approves."""
    booking = ("/holds/*/book", "/api/holds/*/booking", "/finish/book")
    return [
        Allow(host, to=to),
        Allow(host, to=to, methods=("POST",), paths=booking, effect="irreversible", approve=True),
    ]


class Site(Box):
    """Books a room at one site. List what is free, hold a room to learn its price, then book it or release it."""

    guest: str

    @action(effect="read")
    def offers(self, night: str) -> list[Offer]:
        """List the rooms that are free.

        Args:
            night: Its date, as in "2027-03-01".
        """
        return self.find(night)

    @action(effect="reversible", compensate="release")
    def hold(self, room: str, night: str) -> Hold:
        """Hold a room for the guest, and return what it really costs."""
        held = self.take(room, night)
        QUOTE.write_text(str(held.cents))
        return held

    @action
    def release(self, result: Hold) -> None:
        """Let go of a room that is held."""
        self.let_go(result)

    @action(effect="irreversible")
    def book(self, hold: Hold) -> str:
        """Book a room that is held, and return the number of the booking. A person is asked first."""
        return self.confirm(hold)

    # What each site has in its own way.

    def find(self, night: str) -> list[Offer]:
        """Lists what is free."""
        raise NotImplementedError

    def take(self, room: str, night: str) -> Hold:
        """Holds a room."""
        raise NotImplementedError

    def let_go(self, hold: Hold) -> None:
        """Releases it."""
        raise NotImplementedError

    def confirm(self, hold: Hold) -> str:
        """Books it."""
        raise NotImplementedError


class Palace(Site):
    """Books a room at the Palace. List what is free, hold a room to learn its price, then book it or release it."""

    egress = rules("palace.example")

    def find(self, night: str) -> list[Offer]:
        """Asks its interface."""
        found = json.loads(_get(f"http://palace.example/api/rooms?{urlencode({'night': night})}"))
        return [Offer(each["room"], each["cents"]) for each in found]

    def take(self, room: str, night: str) -> Hold:
        """Asks its interface."""
        wanted = json.dumps({"room": room, "night": night, "guest": self.guest}).encode()
        held = json.loads(_send("http://palace.example/api/holds", wanted, "application/json"))
        return Hold(str(held["hold"]), room, held["cents"])

    def let_go(self, hold: Hold) -> None:
        """Deletes the hold."""
        _send(f"http://palace.example/api/holds/{hold.number}", None, method="DELETE")

    def confirm(self, hold: Hold) -> str:
        """Makes a booking of the hold."""
        answer = _send(f"http://palace.example/api/holds/{hold.number}/booking", b"")
        return str(json.loads(answer)["booking"])


class Inn(Site):
    """Books a room at the Inn. List what is free, hold a room to learn its price, then book it or release it."""

    egress = rules("inn.example")

    def find(self, night: str) -> list[Offer]:
        """Reads the table of rooms."""
        page = _get(f"http://inn.example/?{urlencode({'night': night})}")
        rows = re.findall(r'data-room="(\w+)"><td>\w+</td><td>(\d+)\.(\d\d) EUR', page)
        return [Offer(room, int(euros + cents)) for room, euros, cents in rows]

    def take(self, room: str, night: str) -> Hold:
        """Sends the form, and reads the page that it leads to."""
        page = _form("http://inn.example/holds", room=room, night=night, guest=self.guest)
        euros, cents = _one(r'id="total">(\d+)\.(\d\d)<', page.text).groups()
        return Hold(page.url.rpartition("/")[2], room, int(euros + cents))

    def let_go(self, hold: Hold) -> None:
        """Sends the form."""
        _form(f"http://inn.example/holds/{hold.number}/release")

    def confirm(self, hold: Hold) -> str:
        """Sends the form, and reads the number."""
        return str(
            _one(r'id="booking">(\w+)<', _form(f"http://inn.example/holds/{hold.number}/book").text)[1]
        )


class Lodge(Site):
    """Books a room at the Lodge. List what is free, hold a room to learn its price, then book it or release it."""

    egress = rules("lodge.example")

    def find(self, night: str) -> list[Offer]:
        """Reads the list of rooms."""
        page = self._open(night)
        rows = re.findall(r'<option value="(\w+)">\w+, from (\d+) EUR', page)
        return [Offer(room, 100 * int(euros)) for room, euros in rows]

    def take(self, room: str, night: str) -> Hold:
        """Goes on from the list, with its token; keeps the one of the next page."""
        token = _field("token", self._open(night))
        page = _form("http://lodge.example/hold", room=room, night=night, guest=self.guest, token=token).text
        cents = int(_one(r'id="total">(\d+)<', page)[1])
        return Hold(_field("hold", page), room, cents, _field("token", page))

    def let_go(self, hold: Hold) -> None:
        """Takes the way back."""
        _form("http://lodge.example/finish/release", hold=hold.number, token=hold.token)

    def confirm(self, hold: Hold) -> str:
        """Takes the last step, and reads the number."""
        page = _form("http://lodge.example/finish/book", hold=hold.number, token=hold.token).text
        return str(_one(r'id="booking">([\w-]+)<', page)[1])

    def _open(self, night: str) -> str:
        return _get(f"http://lodge.example/?{urlencode({'night': night})}")


SITES: list[type[Site]] = [Inn, Palace, Lodge]


def at(site: type[Site], address: str, guest: str) -> Site:
    """Makes a box of a site that is played by a program on this machine.

    Args:
        site: Which.
        address: Where that program is, "127.0.0.1:PORT".
        guest: For whom.
    """
    host = f"{site.__name__.lower()}.example"
    local = type(site.__name__, (site,), {"__doc__": site.__doc__, "egress": rules(host, address)})
    made: Site = local(guest=guest)
    return made


# -- pages


@dataclass(frozen=True)
class Page:
    """A page, and where it was found in the end."""

    url: str
    text: str


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


def _form(url: str, **fields: str) -> Page:
    with urllib.request.urlopen(url, urlencode(fields).encode()) as answer:
        return Page(answer.url, answer.read().decode())


def _send(url: str, body: bytes | None, kind: str = "application/octet-stream", method: str = "POST") -> str:
    request = urllib.request.Request(url, body, {"content-type": kind}, method=method)
    with urllib.request.urlopen(request) as answer:
        return str(answer.read().decode())


def _field(name: str, page: str) -> str:
    return str(_one(rf'name="{name}" value="([^"]*)"', page)[1])


def _one(pattern: str, page: str) -> Any:
    found = re.search(pattern, page)
    if found is None:
        raise ValueError(f"the page has changed: there is no {pattern} in it")
    return found
