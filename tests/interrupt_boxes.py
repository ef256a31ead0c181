"""Boxes whose actions are interrupted at moments that a test chooses."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kibo import Box, action

#: While it is there, in the box, an `Order` takes its time to be read.
SLOW = Path("/work/slow")
READING = Path("/work/reading")


@dataclass
class Order:
    """An argument that the box makes anew of what it is sent."""

    number: int

    def __post_init__(self) -> None:
        while SLOW.exists():
            READING.touch()
            time.sleep(0.001)


class Counter(Box):
    """Counts what it has begun and ended."""

    begun = 0
    ended = 0

    @action
    def count(self, work_s: float = 0.0) -> int:
        """Count up, working for a while."""
        self.begun += 1
        until = time.monotonic() + work_s
        while time.monotonic() < until:
            pass
        self.ended += 1
        return self.ended

    @action
    def take(self, order: Order) -> int:
        """Take an order."""
        self.begun += 1
        return order.number

    @action
    def items(self, size: int) -> Iterator[bytes]:
        """Give without end."""
        while True:
            yield b"x" * size

    @action
    def counts(self) -> list[int]:
        """Tell both counts."""
        return [self.begun, self.ended]
