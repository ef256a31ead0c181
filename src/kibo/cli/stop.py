"""`kibo stop`."""

from __future__ import annotations

import time
from typing import Annotated, Final

from cyclopts import Parameter

from kibo.cli.holder import HOLDER_MARK
from kibo.cli.instances import find_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.model.errors import InvalidInput, Unavailable
from kibo.runtime.attached import Found, attach, list_cells
from kibo.runtime.layers.home import state_home

#: A holder ends some 50 ms after its instance; on a machine under load it may take longer.
_HOLDER_S: Final = 10.0


def stop(
    *instances: str,
    all: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """End instances. Returns when all that they were is gone.

    Args:
        instances: Their ids, the first digits of an id, or their names.
        all: End every instance that `kibo spawn` keeps in the background.
        common: Options of every command.
    """
    found = [find_instance(reference) for reference in instances]
    if all:
        found += [cell for cell in list_cells(state_home()) if cell.is_instance and _is_held(cell)]
    if not found and not all:
        raise InvalidInput("no instance is named", hint="kibo stop INSTANCE, or kibo stop --all")
    stopped = {cell.id: cell for cell in found}
    for cell in stopped.values():
        held = _is_held(cell)
        attach(cell).destroy()
        if held:
            _await_holder(cell)
    if common.json:
        print_json({"stopped": list(stopped)})
    else:
        print_value("\n".join(stopped) or "nothing to stop")


def _is_held(cell: Found) -> bool:
    return (state_home() / "run" / cell.session.name / HOLDER_MARK).exists()


def _await_holder(cell: Found) -> None:
    """Waits until the background process and its session are gone too."""
    directory = state_home() / "run" / cell.session.name
    deadline = time.monotonic() + _HOLDER_S
    while directory.exists():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{cell.id} has ended, and the process {cell.session.holder_pid} that held it has not",
                hint=f"Look at it; `kill {cell.session.holder_pid}` ends it.",
            )
        time.sleep(0.01)
