"""Which gateways live: each holds the lock of a file of its name, flock(2), which ends with it however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kibo.effects.ledger import Ledger


def appear(directory: Path, gateway: str) -> None:
    """Makes this process known as a gateway for as long as it lives."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        # Never closed: the end of the process is what releases it.
        fd = os.open(directory / gateway, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == os.stat(directory / gateway).st_ino:
                return
        os.close(fd)  # taken for a dead one's between the two calls, and removed


def known(directory: Path) -> list[str]:
    """Lists the gateways that were here, dead ones included."""
    with suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


@contextmanager
def buried(directory: Path, gateway: str) -> Iterator[bool]:
    """Gives whether a gateway of this state directory is dead, and keeps others from burying it meanwhile.

    One that has no file here lives elsewhere, if it lives; where a store is shared, its own machine finds out.
    """
    try:
        fd = os.open(directory / gateway, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def forget(directory: Path, gateway: str) -> None:
    """Removes what a dead gateway is known by, once nothing in the ledger waits for it."""
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
