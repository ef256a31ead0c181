"""Shows an exploration as it happens: a tree that grows in a terminal, a line an event elsewhere, or JSON lines.

```python
with TreeView() as view:
    kibo.explore(coder, strategies, progress=view)
```
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from kibo.cli.output import duration, visible
from kibo.cli.styles import styled

if TYPE_CHECKING:
    from kibo.branch.explore.exploration import Attempt, ExploreEvent

#: How each state looks: its sign, and its style on a terminal.
SIGNS = {
    "queued": ("·", "dim"),
    "starting": ("·", "dim"),
    "running": ("▸", "cyan"),
    "held": ("‖", "yellow"),
    "finished": ("○", ""),
    "failed": ("✗", "red"),
    "stopped": ("■", "dim"),
    "won": ("✓", "bold green"),
}

#: States in which an attempt is always shown, however many there are.
_LIVELY = ("running", "held", "won")


class TreeView(AbstractContextManager["TreeView"]):
    """Takes the events of explorations, also of several one after the other.

    Args:
        stream: Where to show them; standard error, or standard output for JSON.
        as_json: One JSON object a line, for programs.
    """

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        self._stream = stream or (sys.stdout if as_json else sys.stderr)
        self._json = as_json
        self._rich = not as_json and styled(self._stream)
        self._guard = threading.Lock()  # the tree is drawn on a thread of its own
        self._attempts: dict[int, Attempt] = {}
        self._began: dict[int, float] = {}
        self._logs: dict[int, str] = {}
        self._now = 0.0
        self._live: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __call__(self, event: ExploreEvent) -> None:
        """Shows one event."""
        with self._guard:
            self._keep(event)
        if self._json:
            self._write(json.dumps(as_document(event), ensure_ascii=False))
        elif self._rich:
            self._draw(event)
        elif line := as_line(event):
            self._write(line)

    def _keep(self, event: ExploreEvent) -> None:
        if event.kind == "began":
            self._attempts, self._began, self._logs = {}, {}, {}
        if event.attempt is not None:
            number = event.attempt.number
            self._attempts[number] = event.attempt
            if event.kind == "started":
                self._began[number] = event.seconds
            elif event.kind == "log":
                self._logs[number] = event.text
        if event.exploration is not None:
            self._attempts = {attempt.number: attempt for attempt in event.exploration.attempts}

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _draw(self, event: ExploreEvent) -> None:
        from time import monotonic

        self._now = monotonic() - event.seconds
        if event.kind == "began":
            from rich.console import Console
            from rich.live import Live

            self._end()
            console = Console(file=self._stream, highlight=False)
            self._live = Live(get_renderable=self._tree, console=console, refresh_per_second=8)
            self._live.start()
        elif event.kind == "ended":
            self._end()

    def _end(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _tree(self) -> Any:
        from time import monotonic

        from rich.tree import Tree

        live = self._live
        rows = 30 if live is None else max(5, live.console.height - 4)
        with self._guard:
            since = monotonic() - self._now
            shown = shown_of(self._attempts, rows)
            tree = Tree(f"exploring  {duration(since)}", guide_style="dim")
            branches: dict[int | None, Any] = {None: tree}
            hidden: dict[int | None, int] = {}
            for number, attempt in self._attempts.items():
                if number in shown:
                    branches[number] = branches[attempt.parent].add(self._label(attempt, since))
                else:
                    hidden[attempt.parent] = hidden.get(attempt.parent, 0) + 1
            for parent, count in hidden.items():
                if parent in branches:
                    branches[parent].add(f"[dim]… and {count} more[/]")
        return tree

    def _label(self, attempt: Attempt, since: float) -> Any:
        from rich.text import Text

        sign, style = SIGNS[attempt.state]
        text = Text(f"{sign} {visible(attempt.name)}", style=style, overflow="ellipsis", no_wrap=True)
        if attempt.score is not None:
            text.append(f"  {attempt.score:g}", style="bold")
        running = attempt.state in ("running", "held") and attempt.number in self._began
        seconds = since - self._began[attempt.number] if running else attempt.seconds
        if seconds:
            text.append(f"  {duration(seconds)}", style="dim")
        if note := _why(attempt) or visible(self._logs.get(attempt.number, "")):
            text.append(f"  {note}", style="red" if attempt.state == "failed" else "dim")
        return text


def shown_of(attempts: dict[int, Attempt], rows: int) -> set[int]:
    """Chooses which attempts to show where there is no room for all: what lives, then the newest, with their lines."""
    if len(attempts) <= rows:
        return set(attempts)
    order = sorted(attempts.values(), key=lambda one: (one.state not in _LIVELY, -one.number))
    shown: set[int] = set()
    for attempt in order:
        line = set(_line(attempts, attempt)) - shown
        if len(shown) + len(line) > rows:
            break
        shown |= line
    return shown


def _line(attempts: dict[int, Attempt], attempt: Attempt) -> Iterator[int]:
    yield attempt.number
    while attempt.parent is not None:
        attempt = attempts[attempt.parent]
        yield attempt.number


def as_line(event: ExploreEvent) -> str:
    """Says an event in a line; empty for what is not worth one."""
    clock = f"[{event.seconds:7.2f} s]"
    attempt = event.attempt
    if attempt is None:
        if event.exploration is None:
            return ""
        spent = event.exploration.spent
        return f"{clock} ended: {visible(event.text)} ({spent.branches} branches)"
    sign = SIGNS[attempt.state][0]
    what = {
        "started": "started" + (f" from attempt {attempt.parent}" if attempt.parent is not None else ""),
        "log": visible(event.text),
        "held": "waits for its commit",
        "scored": f"scored {attempt.score:g}" if attempt.score is not None else "",
        "finished": f"finished after {duration(attempt.seconds)}",
        "failed": f"failed after {duration(attempt.seconds)}: {_why(attempt)}",
        "stopped": f"stopped after {duration(attempt.seconds)}" if attempt.seconds else "stopped",
        "won": "won",
    }.get(event.kind)
    return f"{clock} {sign} {visible(attempt.name)}: {what}" if what else ""


def as_document(event: ExploreEvent) -> dict[str, Any]:
    """Describes an event as values that JSON can hold."""
    document: dict[str, Any] = {"event": event.kind, "seconds": round(event.seconds, 4)}
    if event.attempt is not None:
        document["attempt"] = event.attempt.to_dict()
    if event.text:
        document["text"] = event.text
    if event.exploration is not None:
        found = event.exploration
        document["winner"] = None if found.winner is None else found.winner.number
        document["committed"] = found.committed
        document["branches"] = found.spent.branches
    return document


def _why(attempt: Attempt) -> str:
    from kibo.branch.explore.exploration import one_line

    return "" if attempt.error is None else visible(one_line(attempt.error))
