"""A timeline in lines of text. Pure."""

from __future__ import annotations

from typing import Final

from kibo.model.printable import duration, excerpt, visible
from kibo.schedule.timeline import Mark, Span, Timeline

#: Spans and marks that are drawn; of more, those in the middle are left out.
MAX_ROWS: Final = 200
_LABEL: Final = 12
_NARROWEST: Final = 60

#: How bars look: an action differs from what only leads to it, and from waiting.
_FULL, _HALF, _FAINT = "\N{FULL BLOCK}", "\N{MEDIUM SHADE}", "\N{LIGHT SHADE}"
_BARS: Final = {"running": _FULL, "starting": _HALF, "stopping": _HALF, "cancelling": _HALF}
_MARK: Final = "\N{BLACK DIAMOND}"


def draw(timeline: Timeline, width: int) -> str:
    """Draws it; see `Timeline.text`. Whatever has been written into names and notes, a row is one line of text."""
    width = max(_NARROWEST, width)
    name = f"  {_safe(timeline.name, 40)}" if timeline.name else ""
    took = f"after {duration(timeline.seconds)}" if timeline.over else f"for {duration(timeline.seconds)}"
    lines = [f"{_safe(timeline.run, 40)}{name}  {timeline.state} {took}"]
    lines += [f"! {_safe(each, 1000)}" for each in timeline.warnings[:MAX_ROWS]]
    rows = timeline.rows(MAX_ROWS)
    room = max(20, (width - _LABEL - 20) // 2)
    for row in rows:
        if isinstance(row, int):
            lines.append(f"{'':>9}  ... {row:,} more ...")
        else:
            lines.append(_line(row, timeline.seconds, room, width))
    return "\n".join(lines)


def _line(row: Span | Mark, seconds: float, room: int, width: int) -> str:
    if isinstance(row, Span):
        begin_s, label = row.begin_s, row.label
        bar = _bar(row, seconds, room)
        took = duration(row.end_s - row.begin_s) + ("..." if row.open else "")
        where = f"attempt {row.attempt} at {row.node}" if row.node else ""
        told = "; ".join(each for each in (where, row.note) if each)
    else:
        begin_s, label, took, told = row.at_s, row.what, "", row.note
        bar = " " * min(room - 1, _column(row.at_s, seconds, room)) + _MARK
    line = f"{'+' + duration(begin_s):>9}  {_safe(label, _LABEL):<{_LABEL}} {bar:<{room}} {took:<9} "
    return f"{line}{_safe(told, max(20, width - len(line)))}".rstrip()


def _bar(span: Span, seconds: float, room: int) -> str:
    begin = min(room - 1, _column(span.begin_s, seconds, room))
    end = max(begin + 1, _column(span.end_s, seconds, room))
    return " " * begin + _BARS.get(span.phase, _FAINT) * (end - begin)


def _column(at_s: float, seconds: float, room: int) -> int:
    return round(room * (at_s / seconds)) if seconds > 0 else 0


def _safe(text: str, most: int) -> str:
    return visible(excerpt(text, most))
