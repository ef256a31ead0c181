"""Who explores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.swarm.programs import search
from examples.swarm.tasks import SHOWN
from kibo import Box, action


@dataclass(frozen=True)
class Found:
    """What an explorer has found.

    Attributes:
        program: The steps.
        tried: How many programs it took.
        notes: The files that it saw from others before it began: always none.
    """

    program: list[str]
    tried: int
    notes: list[str]


#: How far an explorer goes, by what it is told to do otherwise after a failure: programs, and steps in each.
FAR = {"": (100, 2), "wider": (600, 2), "deeper": (2_000, 3)}


class Explorer(Box):
    """Looks for a program that does what it is shown."""

    @action
    def explore(self, task: str, seed: int, variation: str = "") -> Found:
        """Look for it, or fail.

        Args:
            task: The task's name.
            seed: What its chance goes by.
            variation: "wider" or "deeper", where a first look has failed.
        """
        notes = sorted(path.name for path in Path("/work").iterdir())
        tries, depth = FAR[variation]
        program, tried = search(SHOWN[task], f"{task} {seed} {variation}", tries=tries, depth=depth)
        Path(f"/work/{task}-{seed}").write_text(f"{tried} tried, {program}")
        if program is None:
            raise LookupError(f"none of {tried} programs does it")
        return Found(program, tried, notes)


class Lead(Box):
    """Opens the search: all explorers are part of its run, and so of its budget."""

    @action
    def brief(self) -> int:
        """Return how many tasks there are."""
        return len(SHOWN)
