"""`kibo top`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.scheduled import opened
from kibo.cli.styles import styled
from kibo.cli.top_view import Frame, document, drawn, lines
from kibo.model.durations import seconds
from kibo.model.errors import InvalidInput
from kibo.runtime.attached import list_cells
from kibo.schedule.figures import figures
from kibo.wiring import Runtime

#: Looking takes at most this share of the time, however many runs there are.
_SHARE = 0.1
#: The shortest time between two looks, in seconds.
_SHORTEST_S = 0.1


def top(
    *,
    once: Annotated[bool, Parameter(negative="")] = False,
    every: str = "1s",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show what runs and what waits, as it changes: by state, tenant and key, with the nodes and their room.

    On a terminal it is drawn anew in its place, until Ctrl-C; into a pipe, one frame after the other.

    Args:
        once: Show one frame alone.
        every: How often to look: 500ms, 1s, 1m. Less often, where one look takes long.
        common: Options of every command.
    """
    pause_s = seconds(every)
    if pause_s < _SHORTEST_S:
        raise InvalidInput(f"{every!r} is too often", hint="Look every 100ms, or less often.")
    with opened() as home:
        frames = _frames(home, pause_s)
        if once or common.json or not styled(sys.stdout):
            for frame in frames:
                print_json(document(frame)) if common.json else print_value("\n".join(lines(frame)) + "\n")
                if once:
                    return
        else:
            _live(frames)


def _frames(home: Runtime, pause_s: float) -> Iterator[Frame]:
    """Looks again and again."""
    here, history = home.scheduling(), home.records().history
    surveyor = here.surveyor()
    while True:
        began_s = time.monotonic()
        boxes = sum(cell.is_instance for cell in list_cells(home.home))
        branches = history.counts().get("open", 0)
        yield Frame(figures(here.survey(surveyor)), boxes, branches)
        took_s = time.monotonic() - began_s
        time.sleep(max(pause_s, took_s / _SHARE))


def _live(frames: Iterator[Frame]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        for frame in frames:
            live.update(drawn(frame, console.size.height), refresh=True)
