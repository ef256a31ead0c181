"""The cheapest of three hotels is booked: all three are tried, a person approves, and what the others held is released.

`python -m examples.hotel.demo`. With --yes the approval is given as a person would give it, on the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kibo
from examples.hotel.boxes import QUOTE, SITES, at
from examples.hotel.sites.books import Books
from kibo.branch.branch import Branch
from kibo.branch.explore.exploration import ExploreEvent

ROOT = Path(__file__).parents[2]
NIGHT = "2027-03-01"
GUEST = "Ada"


def main() -> int:
    """Runs the example; returns the program's exit status."""
    parser = argparse.ArgumentParser(description="The cheapest of three hotels is booked.")
    parser.add_argument("--yes", action="store_true", help="approve the booking, as a person would")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, open_sites(Path(place)) as (address, books):
        booking = book_cheapest(address, approve if options.yes else ask)
        told("booked", booking)
        return 0 if check(books, booking) else 1


def book_cheapest(address: str, person: Callable[[str], object]) -> str:
    """Holds a room at each site, books the cheapest, and returns the number of the booking.

    Args:
        address: Where the sites are.
        person: Called with the id of the booking's request, in a thread, once it waits for somebody to approve it.
    """
    with kibo.branch(goal=f"the cheapest room for {NIGHT}") as main_branch:
        desks = {
            site.__name__: main_branch.spawn(at(site, address, GUEST), name=site.__name__) for site in SITES
        }

        def quote(branch: Branch) -> int:
            """Scores an attempt, which waits with its booking: what the room that it holds costs."""
            return -min(
                int(branch[desk].files.read(str(QUOTE))) for desk in desks.values() if quoted(branch[desk])
            )

        def show(event: ExploreEvent) -> None:
            if event.attempt is None:
                return
            if event.kind == "scored" and event.attempt.score is not None:
                told(event.attempt.name, f"holds a room for {euros(-int(event.attempt.score))}, and waits")
            if event.kind == "won":
                told(event.attempt.name, "is the cheapest: its booking waits for a person")
                assert event.attempt.branch is not None
                (waiting,) = [
                    each for each in event.attempt.branch.effects() if each.state in ("held", "asking")
                ]
                threading.Thread(target=person, args=(waiting.id,)).start()

        attempts = [(name, booking_at(desk)) for name, desk in desks.items()]
        policy = kibo.BestOf(quote)
        found = kibo.explore(
            main_branch, attempts, policy=policy, workers=len(attempts), progress=show, require=True
        )
    assert found.winner is not None
    return str(found.winner.value)


def booking_at(desk: Any) -> Callable[[Branch], str]:
    """Makes an attempt: the cheapest room of one site, held and then booked."""

    def attempt(branch: Branch) -> str:
        here = branch[desk]
        offer = min(here.offers(NIGHT), key=lambda each: each.cents)
        return str(here.book(here.hold(offer.room, NIGHT)))

    return attempt


def quoted(desk: Any) -> bool:
    """Tells whether a desk holds a room."""
    return any(entry.name == QUOTE.name for entry in desk.files.list(str(QUOTE.parent)))


def approve(effect: str) -> None:
    """Approves, as a person would."""
    subprocess.run([sys.executable, "-m", "kibo.cli", "approve", effect, "--yes"], check=True)


def ask(effect: str) -> None:
    """Tells a person what to do."""
    told("", f"in another terminal: kibo approve {effect}")


@contextlib.contextmanager
def open_sites(place: Path) -> Iterator[tuple[str, Books]]:
    """Starts the sites as a program of its own; gives their address and what they have on record."""
    database = place / "hotel.db"
    command = [sys.executable, "-m", "examples.hotel.sites", "--db", str(database)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise SystemExit("the sites did not start")
            with contextlib.closing(Books(database)) as books:
                yield address, books
        finally:
            process.terminate()


def check(books: Books, booking: str) -> bool:
    """Shows what the sites have on record, and whether it is one booking and nothing held."""
    for hold in books.all():
        told(hold.site, f"{hold.room}, {hold.night}, for {hold.guest}: {hold.state}")
    states = sorted(hold.state for hold in books.all())
    right = states == ["booked", "released", "released"]
    print(f"one booking, {booking}, and nothing else is held" if right else f"not right: {states}")
    return right


BEGAN = time.monotonic()


def told(who: str, what: str) -> None:
    """Prints one line, with the time since the start."""
    print(f"{who:>14}  {time.monotonic() - BEGAN:6.2f} s  {what}", flush=True)


def euros(cents: int) -> str:
    """Writes an amount of money."""
    return f"{cents // 100}.{cents % 100:02} EUR"


if __name__ == "__main__":
    sys.exit(main())
