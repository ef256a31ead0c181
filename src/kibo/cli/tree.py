"""`kibo tree`."""

from __future__ import annotations

import time
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.branch.listing import Line, listed
from kibo.branch.owning import running
from kibo.cli.branches import counted, short, standing
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_table, print_value


def tree(
    branch: str | None = None,
    /,
    *,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List the trees of branches: those that are open, and those that ended within the last day.

    A branch is stale where its parent has moved since it was forked. A star marks what runs in a living process.

    Args:
        branch: List all of its tree alone: its id, the beginning of its id, or its name.
        all: List older trees and aborted branches too.
        common: Options of every command.
    """
    with standing() as here:
        processes = running(here.deltas.home)
        lines = listed(here.history, processes, ref=branch, everything=all)
    if common.json:
        print_json([_document(line) for line in lines])
    elif not lines:
        print_value(
            "no branch is open; kibo.branch() in Python begins a tree" + ("" if all else "; --all lists more")
        )
    else:
        print_table(
            ("BRANCH", "ID", "STATUS", "AGE", "HEAD", "LABELS", "GOAL"),
            [row for line in lines for row in _rows(line)],
        )


def _rows(line: Line) -> list[tuple[str, ...]]:
    branch, indent = line.branch, "  " * line.depth
    labels = [
        label if snapshot == branch.head else f"{label}={short(snapshot)}"
        for label, snapshot in line.labels.items()
    ]
    status = branch.status + ("*" if line.process is not None else "")
    age = duration(time.time() - branch.created_s)
    name = indent + (branch.name or "-")
    head = short(branch.head)
    rows: list[tuple[str, ...]] = [
        (name, short(branch.id), status, age, head, ", ".join(labels), branch.goal)
    ]
    if line.hidden:
        rows.append(
            (f"{indent}  … and {counted(line.hidden, 'aborted branch', 'aborted branches')}", *[""] * 6)
        )
    return rows


def _document(line: Line) -> dict[str, Any]:
    branch = line.branch
    return {
        "id": branch.id,
        "name": branch.name,
        "tree": branch.tree,
        "parent": branch.parent,
        "depth": line.depth,
        "status": branch.status,
        "head": branch.head,
        "base": branch.base,
        "result": branch.result,
        "labels": dict(line.labels),
        "goal": branch.goal,
        "created_s": branch.created_s,
        "closed_s": branch.closed_s,
        "age_s": round(time.time() - branch.created_s, 3),
        "process": line.process,
        "aborted_children": line.hidden,
    }
