"""A run's way, from the events that the store has of it: what it was in for how long, and what happened when. Pure.

Events have the time of the clock that people set. Where that was set back between two of them nobody knows how long it
took from one to the other: that is said, and counts as no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kibo.model.printable import duration
from kibo.schedule.lifecycle import ENDED, EVENTS, MOVES, NOTES, UNDOING, WRITING, State
from kibo.schedule.submitting import Happened

#: What a run is in is called as its state, but for these.
LABELS: Final[Mapping[str, str]] = {
    "starting": "launch", "running": "action", "backing_off": "pause", "forked": "forks", "asking": "person",
    "compensating": "undo", "rolling_back": "undo",
}  # fmt: skip
#: Events that say no more than that something begins which has a bar of its own.
_BEGINNINGS: Final = frozenset(
    {"submit", "ready", "place", "begin", "hold", "retry", "fork", "ask", "compensate"}
)
#: No clock says this, some 30,000 years away.
_NO_TIME_S: Final = 1e12
_KNOWN: Final = frozenset({"submit", *NOTES, *EVENTS})


class Span(NamedTuple):
    """What a run was in for a while.

    Attributes:
        phase: Its state then, see docs/reference/runs.md; ``held``, while all that it called waited for effects that
            its fork held.
        begin_s: Seconds from its submission.
        end_s: The same; never before that.
        attempt: Which attempt it had; 0 for none.
        node: Where that was; empty for none.
        note: Why, in words; may be of a box's making.
        open: Whether it still is in it.
    """

    phase: str
    begin_s: float
    end_s: float
    attempt: int
    node: str
    note: str
    open: bool

    @property
    def label(self) -> str:
        """What people call it."""
        return LABELS.get(self.phase, self.phase)


class Mark(NamedTuple):
    """What happened at a moment.

    Attributes:
        what: The event; any text, where a newer Kibo has written it.
        at_s: Seconds from its submission.
        attempt: Which attempt it had; 0 for none.
        note: More of it, in words; may be of a box's making.
    """

    what: str
    at_s: float
    attempt: int
    note: str


@dataclass(frozen=True)
class Timeline:
    """A run's way. Shown as text by `str()`, and as a picture by notebooks.

    Attributes:
        run: Its id.
        name: What people call it; may be empty.
        state: What it is in, or has come to.
        began_at_s: When it was submitted, in seconds since 1970.
        seconds: How long it took, or has taken so far.
        way: What it was in, without gaps, and what happened besides, in order.
        warnings: What of it is not certain, in sentences.
    """

    run: str
    name: str
    state: str
    began_at_s: float
    seconds: float
    way: tuple[Span | Mark, ...]
    warnings: tuple[str, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        """What it was in, in order."""
        return tuple(each for each in self.way if isinstance(each, Span))

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What happened besides, in order."""
        return tuple(each for each in self.way if isinstance(each, Mark))

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.state in ENDED

    def rows(self, most: int) -> list[Span | Mark | int]:
        """Returns the way; where it is longer, its beginning and its end, and between them how many are left out."""
        if len(self.way) <= most:
            return [*self.way]
        half = most // 2
        return [*self.way[:half], len(self.way) - 2 * half, *self.way[-half:]]

    def text(self, width: int = 100) -> str:
        """Draws it in lines of at most so many characters, from 60 on."""
        from kibo.schedule.timeline_text import draw

        return draw(self, width)

    def svg(self) -> str:
        """Draws it as a picture, a document of SVG that needs nothing else and runs nothing."""
        from kibo.schedule.timeline_svg import draw

        return draw(self)

    def html(self) -> str:
        """Draws it as a page that needs nothing else and runs nothing."""
        from kibo.schedule.timeline_svg import page

        return page(self)

    def __str__(self) -> str:
        """As `text()`."""
        return self.text()

    def _repr_html_(self) -> str:
        return self.svg()


def timeline(run: str, name: str, events: Iterable[Happened], now_s: float) -> Timeline:
    """Makes a timeline of what has happened.

    Args:
        run: The run's id.
        name: What people call it.
        events: All of its events, in order. Those that this Kibo does not know are marks.
        now_s: What the clock says that people set: until then, what it is in lasts.
    """
    walk = _Walk()
    for event in events:
        walk.take(event)
    walk.end(now_s)
    return Timeline(
        run, name, walk.now.state, walk.clock.first_s, walk.clock.elapsed_s,
        tuple(walk.way()), tuple(walk.warnings),
    )  # fmt: skip


@dataclass
class _Clock:
    """Seconds since the first event, by a clock that may have been set."""

    first_s: float = 0.0
    last_s: float | None = None
    elapsed_s: float = 0.0
    back_s: float = 0.0

    def read(self, at_s: float) -> bool:
        """Takes in what the clock says. Returns whether it was set back since; then no time has passed."""
        known = abs(at_s) < _NO_TIME_S
        if self.last_s is None:
            self.first_s = self.last_s = at_s if known else 0.0
            return not known
        self.back_s = self.last_s - at_s
        went = known and at_s >= self.last_s
        self.elapsed_s += at_s - self.last_s if went else 0.0
        self.last_s = at_s if known else self.last_s
        return not went


class _In(NamedTuple):
    """What a run is in."""

    state: State = "queued"
    held: bool = False
    attempt: int = 0  # that lives
    node: str = ""


@dataclass
class _Walk:
    """The way through the table of states."""

    now: _In = field(default_factory=_In)
    tried: int = 0
    strange: bool = False
    note: str = ""
    began_s: float = 0.0
    last: str = ""
    clock: _Clock = field(default_factory=_Clock)
    #: By the number of the event that each begins with.
    spans: dict[int, Span] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)
    number: int = 0
    began: int = 0
    warnings: list[str] = field(default_factory=list)
    noted: set[tuple[str, int]] = field(default_factory=set)

    def take(self, event: Happened) -> None:
        """Goes on by one event."""
        self._time(event.at_s, event.kind)
        self.number += 1
        kind, was, words = event.kind, self.now, _words(event.kind, event.told)
        if kind in NOTES:
            # A node tells it again where a dispatcher was killed before it had forgotten it.
            if (kind, was.attempt) in self.noted:
                return
            self.noted.add((kind, was.attempt))
        self.strange = self.strange or kind not in _KNOWN
        self.now = self._after(kind, event.told)
        self.tried = max(self.tried, self.now.attempt)
        if self.now != was or self.number == 1:
            if self.number > 1:
                self._close(was, open_=False)
            self.note, self.began, self.began_s = words, self.number, self.clock.elapsed_s
        if kind not in _BEGINNINGS:
            self.marks[self.number] = Mark(kind, self.clock.elapsed_s, was.attempt, words)
        self.last = kind

    def end(self, now_s: float) -> None:
        """What it is in lasts until now, unless it has ended."""
        if self.number and self.now.state not in ENDED:
            self._time(now_s, "now")
            self._close(self.now, open_=True)

    def _time(self, at_s: float, what: str) -> None:
        if self.clock.read(at_s):
            by = f"by {duration(self.clock.back_s)} " if abs(self.clock.back_s) < _NO_TIME_S else ""
            self.warnings.append(
                f"the clock was set back {by}between {self.last or 'the beginning'} and {what}: "
                "how long it was from one to the other is not known, and is shown as no time"
            )

    def _after(self, kind: str, told: Mapping[str, Any]) -> _In:
        was = self.now
        if kind == "submit":
            return _In("waiting" if told.get("after") else "queued")
        if kind in NOTES:
            return was._replace(held=kind == "hold")
        state = MOVES[was.state].get(kind, was.state)  # type: ignore[call-overload]
        if self.strange and kind not in MOVES[was.state]:
            # What this Kibo does not know has led somewhere else: what it does know says where.
            state = _LEADS.get(kind, was.state)
        if kind == "place":
            epoch = told.get("epoch")
            attempt = epoch if type(epoch) is int and epoch > self.tried else self.tried + 1
            return _In(state, False, attempt, str(told.get("node", "")))
        lives = state in _LIVING or (state in UNDOING and kind in ("begin", "cancel"))
        if kind not in _KNOWN or (lives and state == was.state):
            return was
        return _In(state, False, was.attempt, was.node) if lives else _In(state)

    def _close(self, was: _In, *, open_: bool) -> None:
        end_s = self.clock.elapsed_s
        phase = "held" if was.held else was.state
        span = Span(phase, self.began_s, end_s, was.attempt, was.node, self.note, open_)
        self.spans[self.began] = span

    def way(self) -> Iterator[Span | Mark]:
        """All of it, in order."""
        for number in range(1, self.number + 1):
            yield from (found[number] for found in (self.marks, self.spans) if number in found)


_LIVING: Final = WRITING | {"cancelling"}


def _leads() -> dict[str, State]:
    """What leads to one state only, wherever it happens."""
    found: dict[str, set[State]] = {}
    for moves in MOVES.values():
        for event, state in moves.items():
            found.setdefault(event, set()).add(state)
    return {event: next(iter(states)) for event, states in found.items() if len(states) == 1}


_LEADS: Final = _leads()


def _words(kind: str, told: Mapping[str, Any]) -> str:
    """Says more of an event. Nothing of it is believed to be of any type: a newer Kibo may have written it."""
    failure = told.get("failure") or told.get("not_undone")
    found = []
    if isinstance(failure, Mapping):
        found.append(f"{failure.get('code', '')}: {failure.get('message', '')}")
    if isinstance(runs := told.get("runs"), Sequence) and not isinstance(runs, str):
        found.append(f"as {len(runs)} runs")
    for name in ("why", "by", "question", "variation", "fork", "fork_of"):
        if isinstance(value := told.get(name), str) and value:
            found.append(f"{name.replace('_', ' ')} {value}")
    if kind not in _KNOWN:
        found.append("not known to this Kibo")
    return "; ".join(found)
