"""A timeline as a picture, and as a page around it. Pure.

Names and notes may be of anybody's making: nothing of them is markup, and neither document runs or loads anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from kibo.model.printable import duration, excerpt, visible
from kibo.schedule.timeline import Mark, Span, Timeline

#: Spans and marks that are drawn; of more, those in the middle are left out.
MAX_ROWS: Final = 1000
_WIDTH: Final = 1000
_ROW: Final = 22
_LEFT: Final = 150
_BARS: Final = 470
_TOP: Final = 44

_COLOURS: Final = {
    "running": "#2e7d32", "starting": "#1976d2", "held": "#f9a825", "stopping": "#c62828", "cancelling": "#c62828",
    "asking": "#f9a825", "compensating": "#8e24aa", "rolling_back": "#8e24aa", "forked": "#00838f",
}  # fmt: skip
_WAITING: Final = "#b0bec5"
_STYLE: Final = "text{font:12px system-ui,sans-serif;fill:#263238}.faint{fill:#607d8b}.title{font-weight:600}"
#: The page may show its own style, and nothing else: no script, no picture, no address.
_ALONE: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def draw(timeline: Timeline) -> str:
    """Draws the picture; see `Timeline.svg`."""
    rows = timeline.rows(MAX_ROWS)
    warnings = timeline.warnings[:MAX_ROWS]
    height = _TOP + _ROW * (len(rows) + len(warnings)) + 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label={_quoted(_title(timeline))}>',
            f"<title>{_text(_title(timeline), 200)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text class="title" x="12" y="20">{_text(_title(timeline), 110)}</text>',
            f'<text class="faint" x="12" y="36">submitted {_text(_clock(timeline.began_at_s), 40)}</text>',
            *(
                f'<text x="12" y="{_TOP + _ROW * n + 15}" fill="#c62828">{_text(each, 150)}</text>'
                for n, each in enumerate(warnings)
            ),
            *(
                line
                for n, row in enumerate(rows, len(warnings))
                for line in _row(row, timeline.seconds, _TOP + _ROW * n)
            ),
            "</svg>",
        ]
    )


def page(timeline: Timeline) -> str:
    """Draws the page; see `Timeline.html`."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content={quoteattr(_ALONE)}>',
            f"<title>{_text(_title(timeline), 200)}</title>",
            "<style>body{margin:16px;background:#ffffff}</style></head><body>",
            draw(timeline),
            "</body></html>",
            "",
        ]
    )


def _row(row: Span | Mark | int, seconds: float, y: int) -> Iterator[str]:
    if isinstance(row, int):
        yield f'<text class="faint" x="12" y="{y + 15}">... {row:,} more ...</text>'
        return
    begin_s, label = (row.begin_s, row.label) if isinstance(row, Span) else (row.at_s, row.what)
    yield "<g>"
    yield f"<title>{_text(_said(row), 2000)}</title>"
    yield f'<text class="faint" x="68" y="{y + 15}" text-anchor="end">+{duration(begin_s)}</text>'
    yield f'<text x="78" y="{y + 15}">{_text(label, 12)}</text>'
    x = _LEFT + _x(begin_s, seconds)
    if isinstance(row, Span):
        wide = max(1.0, _LEFT + _x(row.end_s, seconds) - x)
        colour = _COLOURS.get(row.phase, _WAITING)
        faded = ' fill-opacity="0.6"' if row.open else ""
        yield f'<rect x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="14" rx="2" fill="{colour}"{faded}/>'
    else:
        yield f'<path d="M{x:.1f} {y + 4}l6 7l-6 7l-6 -7z" fill="#263238"/>'
    yield f'<text class="faint" x="{_LEFT + _BARS + 12}" y="{y + 15}">{_text(_said(row), 64)}</text>'
    yield "</g>"


def _said(row: Span | Mark) -> str:
    if isinstance(row, Mark):
        return "; ".join(each for each in (row.what, row.note) if each)
    took = duration(row.end_s - row.begin_s) + (" so far" if row.open else "")
    where = f"attempt {row.attempt} at {row.node}" if row.node else ""
    return "; ".join(each for each in (took, where, row.note) if each)


def _title(timeline: Timeline) -> str:
    name = f" ({timeline.name})" if timeline.name else ""
    how = "after" if timeline.over else "for"
    return f"{timeline.run}{name}: {timeline.state} {how} {duration(timeline.seconds)}"


def _clock(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "at no time that there is"


def _x(at_s: float, seconds: float) -> float:
    return _BARS * (at_s / seconds) if seconds > 0 else 0.0


def _text(text: str, most: int) -> str:
    return escape(visible(excerpt(text, most)))


def _quoted(text: str) -> str:
    return quoteattr(visible(excerpt(text, 200)))
