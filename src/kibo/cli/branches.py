"""Branches of this state directory, opened for one command, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kibo.runtime.layers.home import state_home

if TYPE_CHECKING:
    from kibo.branch.standing import Standing
    from kibo.wiring.records import Records

#: Digits of an id that a person reads; all of them stand in JSON.
_DIGITS = 8


@contextmanager
def standing() -> Iterator[Standing]:
    """Opens the history of the state directory."""
    with records() as opened:
        yield opened.standing()


@contextmanager
def records() -> Iterator[Records]:
    """Opens all that the state directory records."""
    from kibo.wiring.records import Records  # late: other commands show what they have in the same way

    opened = Records(state_home())
    try:
        yield opened
    finally:
        opened.close()


def short(identifier: str) -> str:
    """Returns the beginning of an id, which every command takes."""
    prefix, _, digits = identifier.rpartition("_")
    return f"{prefix}_{digits[:_DIGITS]}"


def counted(count: int, one: str, many: str) -> str:
    """Says a number of things."""
    return f"{count} {one if count == 1 else many}"
