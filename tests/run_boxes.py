"""Boxes whose actions are done as runs: they pay, fail and end as they are told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kibo
from payer_boxes import asked


@dataclass(frozen=True)
class Receipt:
    """What a payment gave."""

    text: str
    before: list[str]


class Clerk(kibo.Box):
    """Pays at the shop. Where that is, a subclass says."""

    @kibo.action(effect="irreversible", timeout_s=60)
    def pay(self, path: str = "/pay", fail: str = "") -> Receipt:
        """Pay, unless it is to fail before."""
        before = sorted(each.name for each in Path("/work").iterdir())
        Path("/work/tried").write_text(path)
        if fail == "exit":
            os._exit(3)
        if fail:
            raise ValueError(fail)
        return Receipt(asked(path), before)


class Worker(kibo.Box):
    """Does as it is told."""

    times: int = 1

    @kibo.action
    def double(self, number: int) -> Receipt:
        """Return twice the number, and leave it."""
        Path("/work/number").write_text(str(number))
        return Receipt(str(number * 2 * self.times), [])

    @kibo.action
    def choose(self, variation: str = "") -> str:
        """Succeed where it is told what to do otherwise."""
        if variation != "left":
            raise ValueError(f"{variation or 'nothing'} is wrong")
        return f"went {variation}"

    @kibo.action
    def work(self) -> None:
        """Work until it is ended."""
        Path("/work/working").touch()
        while True:
            time.sleep(1)

    @kibo.action
    def count(self) -> Iterator[int]:
        """Count."""
        yield 1
