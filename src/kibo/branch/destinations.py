"""Places of the host that a command is to make something at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from kibo.model.errors import FileMissing, InvalidInput


def free_place(to: Path, what: Literal["file", "directory"]) -> Path:
    """Returns the absolute path of something that can be made.

    Raises:
        InvalidInput: Something is there already.
        FileMissing: There is no directory to make it in.
    """
    to = to.absolute()
    if os.path.lexists(to):
        raise taken(to, what)
    if not to.parent.is_dir():
        raise FileMissing(
            f"there is no directory {to.parent}", hint="Make it first.", details={"path": str(to.parent)}
        )
    return to


def taken(to: Path, what: Literal["file", "directory"]) -> InvalidInput:
    """The error for a place that is not free."""
    return InvalidInput(
        f"{to} is there already", hint=f"Name a {what} that is not.", details={"path": str(to)}
    )
