"""What one build step may use: its time, and, where the host has control groups, memory and processors.

A step's group lies outside of the sandbox. Its place is written down in the step's temporary entry before it is made,
so that whoever sweeps up after a killed builder removes both.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kibo.box.env import Limits
from kibo.model.errors import HostUnsupported
from kibo.model.limits import DEFAULT_MEMORY_BYTES, DEFAULT_STEP_S
from kibo.runtime.cgroups import PLACES_FILE, CgroupHandle, CgroupLimits, open_cgroups
from kibo.runtime.layers.temporary import TemporaryEntry, remove_groups

_GROUP: Final = "step"


@dataclass(frozen=True, slots=True)
class StepBounds:
    """The bounds of each step of one build.

    Attributes:
        step_s: Seconds that it may take.
        memory_bytes: What its programs may use.
        cpus: Processor time as a multiple of one processor, or None.
        owner_pid: The user's process; groups bear its number.
    """

    step_s: float = DEFAULT_STEP_S
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    cpus: float | None = None
    owner_pid: int = 0

    @classmethod
    def of(cls, limits: Limits) -> StepBounds:
        """Takes a box's limits. A box with little memory may still be built with the default's.

        What a step gives is cached for boxes with other limits too, so a small limit must not decide whether it fails.
        """
        memory_bytes = max(limits.memory_bytes or 0, DEFAULT_MEMORY_BYTES)
        return cls(limits.step_s or DEFAULT_STEP_S, memory_bytes, limits.cpus, os.getpid())

    def to_dict(self) -> dict[str, Any]:
        """Describes them for the builder process."""
        return {name: getattr(self, name) for name in self.__slots__}

    @contextmanager
    def group(self, entry: TemporaryEntry) -> Iterator[CgroupHandle | None]:
        """Makes a step's control group, and removes it in the end; None where this user can have none.

        Without one a build goes on: what an instance then may not be limited in is refused when it is spawned.
        """
        cgroups = open_cgroups(f"{self.owner_pid}-build-{entry.path.name}")
        there = cgroups.available()
        limits = CgroupLimits(
            self.memory_bytes if there["memory"] else None, self.cpus if there["cpus"] else None
        )
        if not limits.asked():
            yield None
            return
        (entry.path / PLACES_FILE).write_text(json.dumps(cgroups.places()))
        try:
            handle = cgroups.create(_GROUP, limits)
        except HostUnsupported:
            yield None
            return
        try:
            yield handle
        finally:
            for fd in handle.attach_fds:
                os.close(fd)
            handle.attach_fds = ()
            remove_groups(entry.path)


class Deadline:
    """The moment until which a step may run."""

    def __init__(self, bounds: StepBounds) -> None:
        """Starts to count."""
        self.limit_s = bounds.step_s
        self._ends = time.monotonic() + bounds.step_s

    def left_s(self) -> float:
        """Returns the seconds that are left, 0 at the least."""
        return max(0.0, self._ends - time.monotonic())
