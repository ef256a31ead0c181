"""Instances named on the command line."""

from __future__ import annotations

import re

from kibo.model.errors import InvalidInput
from kibo.runtime.attached import Found, attach, find, list_cells
from kibo.runtime.instance import RunningBox
from kibo.runtime.layers.home import state_home

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def find_instance(reference: str) -> Found:
    """Finds a running instance of this user by its id, the beginning of its id, or its name."""
    return find(state_home(), reference)


def open_instance(reference: str) -> RunningBox:
    """As `find_instance`, ready to be used."""
    return attach(find_instance(reference))


def check_name(name: str) -> None:
    """Refuses a name that is none, or that an instance has.

    Raises:
        InvalidInput: It is.
    """
    if not _NAME.fullmatch(name) or name.startswith("inst_"):
        raise InvalidInput(
            f"{name!r} cannot be a name", hint="Use 1 to 63 letters, digits, dots, dashes or underscores."
        )
    for cell in list_cells(state_home()):
        if cell.name == name:
            raise InvalidInput(
                f"there is an instance called {name!r} already",
                hint=f"Take another name, or `kibo stop {name}`.",
            )
