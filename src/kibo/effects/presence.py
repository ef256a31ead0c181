"""Which gateways live: each holds the lock of a file of its name, flock(2), which ends with it however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kibo.effects.bells import SUFFIX, bell_of
from kibo.store.locking import claim, lock, try_lock_found

if TYPE_CHECKING:
    from kibo.effects.ledger import Ledger


def appear(directory: Path, gateway: str) -> None:
    """Makes this process known as a gateway for as long as it lives."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim(lock(directory / gateway))  # never released: the end of the process does that


def known(directory: Path) -> list[str]:
    """Lists the gateways that were here, dead ones included."""
    with suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(directory) if not name.endswith(SUFFIX))
    return []


@contextmanager
def buried(directory: Path, gateway: str) -> Iterator[bool]:
    """Gives whether a gateway of this state directory is dead, and keeps others from burying it meanwhile.

    One that has no file here lives elsewhere, if it lives; where a store is shared, its own machine finds out.
    """
    fd = try_lock_found(directory / gateway)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def any_dead(directory: Path) -> bool:
    """Tells whether a gateway of this state directory is dead that has not been forgotten."""
    for gateway in known(directory):
        with buried(directory, gateway) as dead:
            if dead:
                return True
    return False


def forget(directory: Path, gateway: str) -> None:
    """Removes what a dead gateway is known by, once nothing in the ledger waits for it."""
    bell_of(directory, gateway).unlink(missing_ok=True)
    (directory / gateway).unlink(missing_ok=True)


def bury_dead(ledger: Ledger, directory: Path, heir: str | None) -> None:
    """Buries the gateways of a state directory that are dead.

    Args:
        ledger: The ledger.
        directory: By which gateways know each other.
        heir: Who sends what they had still to send; None leaves that to the next gateway.
    """
    for gateway in known(directory):
        with buried(directory, gateway) as dead:
            if dead and ledger.unsent(gateway):
                ledger.bury(gateway, heir)
            if dead and not ledger.unsent(gateway):
                forget(directory, gateway)
