"""What is found out at the end of a block that an error leaves already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kibo.model.errors import KiboError


@contextmanager
def telling(error: BaseException | None) -> Iterator[None]:
    """Adds what the block raises to the error that is on its way as a note, where there is one.

    Args:
        error: What leaves the block whose end this is; None where it ended well.
    """
    try:
        yield
    except KiboError as found:
        if error is None:
            raise
        error.add_note(f"and at the end: {found}")
