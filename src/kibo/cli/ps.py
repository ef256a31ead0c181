"""`kibo ps`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_table, print_value, size
from kibo.model.errors import KiboError
from kibo.runtime.attached import Found, list_cells
from kibo.runtime.layers.home import state_home
from kibo.runtime.memory import memory_of


def ps(
    *,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List the running instances of this user, whichever process spawned them.

    Memory is what an instance takes of the host: what it shares, as a fork does with its origin, counts in proportion.

    Args:
        all: List cached states too, which instances are forked from.
        common: Options of every command.
    """
    rows = [_row(cell) for cell in list_cells(state_home()) if all or cell.is_instance]
    if common.json:
        print_json(rows)
    elif not rows:
        print_value("nothing runs; `kibo spawn BOX` starts something")
    else:
        columns = ("INSTANCE", "NAME", "BOX", "STATE", "PID", "MEMORY", "AGE", "OWNER")
        print_table(
            columns,
            [
                (
                    row["id"],
                    row["name"],
                    row["box"],
                    row["state"],
                    str(row["pid"] or "-"),
                    "-" if row["memory_bytes"] is None else size(row["memory_bytes"]),
                    duration(row["age_s"]),
                    str(row["owner_pid"]),
                )
                for row in rows
            ],
        )


def _row(cell: Found) -> dict[str, Any]:
    try:
        pid = cell.session.process_of(cell.id)
    except (KiboError, TimeoutError):
        pid = 0  # it ended, or is not there yet: the list is of a moment
    return {
        "id": cell.id,
        "name": cell.name,
        "box": cell.box,
        "state": "running" if cell.state == "live" else cell.state,
        "pid": pid,
        "memory_bytes": memory_of(pid) if pid else None,
        "age_s": round(cell.age_s, 3),
        "source": cell.source,
        "session": cell.session.name,
        "owner_pid": cell.session.holder_pid,
    }
