"""A box that keeps values in its live state and in files, and says so if the two should part."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import kibo

WORK = Path("/work")


class Values(kibo.Box):
    """Keeps values."""

    def launch(self) -> None:
        self.values: dict[str, Any] = {}

    @kibo.action
    def put(self, name: str, value: Any) -> None:
        """Keep a value."""
        self.values[name] = value
        (WORK / name).write_text(repr(value))

    @kibo.action(effect="read")
    def get(self, name: str) -> Any:
        """Return a value of the live state, which the file has too."""
        if name in self.values and (WORK / name).read_text() != repr(self.values[name]):
            raise RuntimeError(
                f"{name} is {self.values[name]!r} live and {(WORK / name).read_text()} in files"
            )
        return self.values.get(name)

    @kibo.action(effect="read")
    def seen(self) -> dict[str, str]:
        """Return all files of the working directory with their text."""
        return {
            str(path.relative_to(WORK)): path.read_text()
            for path in sorted(WORK.rglob("*"))
            if path.is_file()
        }

    @kibo.action
    def put_both(self, one: str, other: str, value: Any) -> None:
        """Keep a value twice, with time between."""
        self.put(one, value)
        time.sleep(0.002)
        self.put(other, value)

    @kibo.action
    def count_for_ever(self, name: str) -> None:
        """Write growing numbers to a file until it is ended."""
        number = 0
        while True:
            number += 1
            (WORK / name).write_text(repr(number))

    @kibo.action
    def crash(self) -> None:
        """End the process."""
        os._exit(3)

    @kibo.action
    def block(self) -> None:
        """Work until it is ended."""
        while True:
            time.sleep(1)


class Lines(kibo.Box):
    """Keeps lines in its live state alone."""

    def launch(self) -> None:
        self.kept: list[str] = []

    @kibo.action
    def add(self, line: str) -> None:
        """Keep a line."""
        self.kept.append(line)

    @kibo.action(effect="read")
    def lines(self) -> list[str]:
        """Return the lines."""
        return self.kept


class Small(kibo.Box):
    """May write little."""

    env = kibo.Env(limits=kibo.Limits(disk_bytes=8 << 20))


class Few(kibo.Box):
    """May make few files."""

    env = kibo.Env(limits=kibo.Limits(disk_files=2000))
