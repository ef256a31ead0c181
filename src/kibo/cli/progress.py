"""Shows builds and whatever else takes long, on standard error: a bar on a terminal, lines for anything else."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from kibo.branch.hostdir.reading import Reading
from kibo.cli.output import duration, size
from kibo.cli.styles import styled
from kibo.runtime.images.environment import BuildEvent
from kibo.runtime.layers.collection import Collecting
from kibo.runtime.states import Launched, Launching

#: Seconds between two lines about one long step.
_TOLD_S = 5.0


class BuildDisplay(AbstractContextManager["BuildDisplay"]):
    """Takes a build's events, or a collection's. Prints nothing where all is cached."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._rich = styled(sys.stderr)
        self._told_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, event: object) -> None:
        """Shows one event."""
        match event:
            case BuildEvent(kind="started"):
                self._now(event.step, event.index, event.total)
            case BuildEvent(kind="output"):
                self._line(f"  {event.text}")
            case BuildEvent(kind="built"):
                self._line(f"built {event.step} in {duration(event.seconds)}")
                if self._bar is not None:
                    self._now(event.step, event.index + 1, event.total)
            case Launching():
                self._now(f"launch {event.part}", None, None)
            case Reading():
                copied = f"{event.copied:,} files copied ({size(event.copied_bytes)})"
                self._how_far(f"read the workspace: {event.entries:,} paths, {copied}")
            case Collecting():
                self._how_far("look at layers", event.done, event.total)
            case Launched(cached=False) if event.seconds > 0.05:
                self._line(f"launched {event.part} in {duration(event.seconds)}")

    def _how_far(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """Shows how far one thing is, where that takes longer than a moment."""
        if self._rich:
            self._now(what, done, total)
        elif time.monotonic() - self._told_s >= _TOLD_S:
            self._told_s = time.monotonic()
            self._line(what if total is None else f"{what}: {done} of {total}")

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(
                text, markup=False, highlight=False, style="dim" if text[:1] == " " else None
            )
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _now(self, step: str, done: int | None, total: int | None) -> None:
        if not self._rich:
            if total is not None and done is not None and done < total:
                self._line(f"[{done + 1}/{total}] {step}")
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
            from rich.progress import TimeElapsedColumn as Elapsed

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                Elapsed(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(step, total=total)
        self._bar.update(self._task, description=step, completed=done, total=total)
