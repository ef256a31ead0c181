"""What `kibo top` shows, for a terminal, for a pipe and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kibo.cli.branches import counted, short
from kibo.cli.output import duration, excerpt, size, visible
from kibo.schedule.figures import Figures, NodeFigure
from kibo.schedule.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Rows of a table for a pipe; how many more there are is said.
_MOST: Final = 50
_NAME: Final = 30


class Frame(NamedTuple):
    """What there is at a moment.

    Attributes:
        figures: Of runs and nodes.
        boxes: How many instances run, of whichever process of this machine.
        branches: How many branches are open.
    """

    figures: Figures
    boxes: int
    branches: int


class Table(NamedTuple):
    """One table: its columns, of which some are numbers, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = frozenset()


def tables(frame: Frame) -> Iterator[Table]:
    """Makes the tables of a frame; those without rows are left out."""
    found = frame.figures
    numbers = frozenset(
        {"RUNS", "QUEUED", "WAITING", "WORKING", "OLDEST", "MEDIAN", "SHARE", "WEIGHT", "AGE", "USED"}
    )
    made = (
        Table(
            ("STATE", "RUNS", "OLDEST", "MEDIAN"),
            [(one.state, f"{one.runs:,}", duration(one.oldest_s), duration(one.median_s)) for one in found.states],
        ),
        Table(
            ("TENANT", "QUEUED", "OLDEST", "WAITING", "WORKING", "SHARE", "WEIGHT"),
            [
                (
                    _name(each.tenant), f"{each.queued:,}", duration(each.oldest_s) if each.queued else "-",
                    f"{each.waiting:,}", f"{each.working:,}", f"{each.share:.0%}", f"{each.weight:g}",
                )
                for each in found.tenants
            ],
        ),
        Table(
            ("KEY", "KIND", "USED", "QUEUED"),
            [
                (
                    _name(each.key), f"{each.kind} per {each.per_s:g} s" if each.per_s else each.kind,
                    f"{each.used:,} of {each.most:,}", f"{each.queued:,}",
                )
                for each in found.keys
            ],
        ),
        Table(("NODE", "RUNS", "BOXES", "PROCESSORS", "MEMORY", "STATE"), [_node(each) for each in found.nodes]),
        Table(
            ("RUN", "STATE", "AGE", "ATTEMPT", "NODE", "TENANT", "NAME"),
            [_run(each, found) for each in found.runs],
        ),
    )  # fmt: skip
    for table in made:
        if table.rows:
            yield table._replace(numbers=numbers)


def lines(frame: Frame) -> Iterator[str]:
    """Draws a frame as lines of text, whole."""
    yield headline(frame)
    for table in tables(frame):
        yield ""
        rows = [table.columns, *table.rows[:_MOST]]
        widths = [max(len(row[n]) for row in rows) for n in range(len(table.columns))]
        for row in rows:
            cells = zip(row, widths, table.columns, strict=True)
            yield "  ".join(
                f"{cell:>{width}}" if column in table.numbers else f"{cell:<{width}}"
                for cell, width, column in cells
            ).rstrip()
        if len(table.rows) > _MOST:
            yield f"... {len(table.rows) - _MOST:,} more"


def drawn(frame: Frame, height: int) -> RenderableType:
    """Draws a frame for a terminal of so many rows; of what has no room, it says how much it is."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = [Text(headline(frame), style="bold" if frame.figures.dispatcher else "bold red")]
    made = [*tables(frame)]
    rooms = fitted([len(table.rows) for table in made], height - 1 - 2 * len(made))
    for table, room in zip(made, rooms, strict=True):
        whole = room == len(table.rows)
        rich = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for column in table.columns:
            rich.add_column(column, justify="right" if column in table.numbers else "left", no_wrap=True)
        shown = table.rows if whole else table.rows[: room - 1]
        for row in shown:
            rich.add_row(*(Text(cell) for cell in row))  # text, whatever markup it looks like
        parts += [Text(""), rich]
        if not whole:
            parts.append(Text(f"... {len(table.rows) - len(shown):,} more", style="dim"))
    return Group(*parts)


def fitted(rows: Sequence[int], room: int) -> list[int]:
    """Gives several tables lines, one after the other, until all have what they want or nothing is left.

    Args:
        rows: How many each wants.
        room: How many there are; each gets one in any case.
    """
    given = [min(1, wanted) for wanted in rows]
    left = room - sum(given)
    while left > 0 and (wanting := [n for n, wanted in enumerate(rows) if given[n] < wanted]):
        for n in wanting[:left]:
            given[n] += 1
        left -= min(left, len(wanting))
    return given


def headline(frame: Frame) -> str:
    """Says in a line what there is, and who carries it out."""
    found = frame.figures
    when = datetime.fromtimestamp(found.at.at_s).astimezone().strftime("%H:%M:%S")
    who = (
        f"carried out by {excerpt(visible(found.dispatcher), 80)}"
        if found.dispatcher
        else "nobody carries runs out"
    )
    return (
        f"{when}  {counted(len(found.runs), 'open run', 'open runs')}, {counted(frame.boxes, 'box', 'boxes')}, "
        f"{counted(frame.branches, 'open branch', 'open branches')}; {who}"
    )


def document(frame: Frame) -> dict[str, Any]:
    """Returns a frame as JSON holds it, its runs excepted: `kibo runs --json` has those."""
    found = frame.figures
    return {
        "at_s": found.at.at_s,
        "dispatcher": found.dispatcher or None,
        "runs": len(found.runs),
        "boxes": frame.boxes,
        "branches": frame.branches,
        "states": [each._asdict() for each in found.states],
        "tenants": [each._asdict() for each in found.tenants],
        "keys": [each._asdict() for each in found.keys],
        "nodes": [
            each._asdict() | {"room": asdict(each.room), "free": asdict(each.free)} for each in found.nodes
        ],
    }


def _node(node: NodeFigure) -> Sequence[str]:
    room, free = node.room, node.free
    state = "draining" if node.draining else f"kept for {_name(node.kept_for)}" if node.kept_for else "open"
    return (
        short(visible(node.node)),
        f"{node.runs:,}",
        f"{free.boxes:,} of {room.boxes:,} free",
        f"{free.millicpus / 1000:g} of {room.millicpus / 1000:g} free",
        f"{size(free.memory_bytes)} of {size(room.memory_bytes)} free",
        state,
    )


def _run(run: Run, found: Figures) -> Sequence[str]:
    return (
        short(run.id),
        run.state,
        duration(run.age_s(found.at)),
        str(run.epoch) if run.epoch else "-",
        "-" if run.live is None else short(visible(run.live.node)),
        _name(run.request.tenant),
        _name(run.request.name or run.variation) or "-",
    )


def _name(text: str) -> str:
    return visible(excerpt(text, _NAME))
