"""Several coffees race to the payment; one is paid, and the others never were.

Each attempt runs in a fork of one signed-in box, with unchanged programs: Chromium sends the payment, and its answer
simply takes until somebody has decided. Who is judged has a quote and no receipt yet.
"""

from typing import Any

import kibo
from examples.coffee.boxes import QUOTE, Receipt
from kibo import Box
from kibo.branch.explore.exploration import Progress

SIZES = ("large", "small", "medium")


def race(box: Box, kind: str, progress: Progress) -> Receipt:
    """Has every size of a coffee ordered up to the payment, pays the cheapest, and returns its receipt.

    Args:
        box: What orders; it waits for its payments' answers as long as the race takes.
        kind: As on the menu.
        progress: Told how the race goes.
    """
    with kibo.branch(goal=f"the cheapest {kind}") as main:
        customer = main.spawn(box)
        attempts = [(size, ordering(kind, size)) for size in SIZES]
        done = kibo.explore(
            customer,
            attempts,
            policy=kibo.BestOf(cheapness),
            workers=len(SIZES),
            progress=progress,
            require=True,
        )
    assert done.winner is not None
    receipt: Receipt = done.winner.value
    return receipt


def ordering(kind: str, size: str) -> Any:
    """Makes an attempt."""
    return lambda box: box.buy_coffee(kind, size)


def cheapness(box: Any) -> int:
    """Scores an attempt that waits with its payment: its files can be read meanwhile."""
    return -int(box.files.read(str(QUOTE)))
