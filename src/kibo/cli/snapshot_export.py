"""`kibo snapshot export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kibo.cli.branches import counted, short, standing
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, size


def snapshot_export(
    ref: str,
    file: Path,
    /,
    *,
    with_sessions: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Write a snapshot into one file: its log, and all files that are not of its boxes' environments.

    Args:
        ref: A snapshot's or branch's id, the beginning of one, a label, or the name of a branch.
        file: A new file.
        with_sessions: Export it although its boxes have loaded a session: whoever gets the file may be signed in.
        common: Options of every command.
    """
    with standing() as here:
        snapshot, done = here.send(ref, file, with_sessions=with_sessions)
    left_out = len(done.dropped)
    facts = {"snapshot": snapshot.id, "file": str(file), "digest": done.digest, "entries": done.entries}
    if common.json:
        print_json(
            {**facts, "bytes": file.stat().st_size, "total_bytes": done.total_bytes, "dropped": left_out}
        )
        return
    lines = [
        f"exported {short(snapshot.id)} to {file}: {counted(done.entries, 'entry', 'entries')}, "
        f"{size(file.stat().st_size)}",
        f"digest {done.digest}",
    ]
    if left_out:
        lines.append(f"left out: {counted(left_out, 'socket or device', 'sockets and devices')}")
    print_value("\n".join(lines))
