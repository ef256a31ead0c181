"""What happens during a build, as whoever asked for it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One thing that happened during a build.

    Attributes:
        kind: ``started``, ``cached`` or ``built`` for a step, ``output`` for a line that a step printed.
        step: The step's label, such as ``apt: chromium``.
        index: Which step it is, from 0.
        total: How many steps the build has.
        text: The line, for ``output``.
        seconds: How long the step took, for ``cached`` and ``built``.
    """

    kind: str
    step: str
    index: int = 0
    total: int = 0
    text: str = ""
    seconds: float = 0.0


Progress = Callable[[BuildEvent], None]


def read_event(event: dict[str, Any]) -> BuildEvent:
    """Makes a builder's ``step`` or ``output`` event into the form that progress callbacks take."""
    if event["event"] == "output":
        return BuildEvent("output", event["step"], text=event["text"])
    seconds = event.get("seconds", 0.0)
    return BuildEvent(event["state"], event["step"], event["index"], event["total"], seconds=seconds)
