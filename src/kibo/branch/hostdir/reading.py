"""How far the reading of a host directory is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Reading:
    """How far a freeze is. One object a freeze, brought up to date.

    Attributes:
        entries: Paths looked at.
        copied: Files copied.
        copied_bytes: Their sizes together.
        path: The directory that is being read; empty at the end.
        done: Whether all is read.
    """

    entries: int = 0
    copied: int = 0
    copied_bytes: int = 0
    path: bytes = b""
    done: bool = False
