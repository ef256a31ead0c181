"""Boxes that call out, and what they spawn."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import kibo
from kibo import MayDelegate, MayFork, MayPost, MaySpawn, MayTalk, Quota, me


class Worker(kibo.Box):
    """Counts."""

    start: int = 0

    def launch(self) -> None:
        self.count = self.start

    @kibo.action
    def add(self, n: int = 1) -> int:
        """Add, and return the sum."""
        self.count += n
        return self.count

    @kibo.action
    def keep(self, data: bytes) -> bytes:
        """Return what is given."""
        return data

    @kibo.action
    def fail(self) -> None:
        """Raise."""
        raise ValueError("not today")

    @kibo.action
    def up_to(self, n: int) -> Iterator[int]:
        """Yield numbers."""
        yield from range(n)

    @kibo.action
    def leave(self) -> None:
        """End the process."""
        os._exit(3)


class Asking(kibo.Box):
    """Has a door, and does with it what a test says."""

    rights = [MayTalk()]

    def launch(self) -> None:
        self.kept: Any = None

    @kibo.action
    def ask(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Ask for something."""
        return me.ask(verb, **arguments)

    @kibo.action
    def try_to_ask(self, verb: str, arguments: dict[str, Any]) -> tuple[str, str, str]:
        """Ask for something that fails, and return the error's code, message and hint."""
        try:
            me.ask(verb, **arguments)
        except kibo.KiboError as error:
            return error.code, error.message, error.hint
        return "", "", ""

    @kibo.action
    def run(self, source: str) -> Any:
        """Run code that sets ``result``."""
        names: dict[str, Any] = {"me": me, "kibo": kibo, "self": self}
        exec(source, names)
        return names.get("result")

    @kibo.action
    def sh(self, command: str) -> tuple[int, str, str]:
        """Run a command as an action's program."""
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    @kibo.action
    def draw(self) -> float:
        """Return a random number."""
        return random.random()


class Writer(Asking):
    """May say all that there is to say, but not much of it."""

    rights = [MayPost(), MayDelegate()]
    quota = Quota(mail_bytes=200_000, calls_per_s=1000)


class Hearing(Asking):
    """Has a method for messages, and may ask for more."""

    @kibo.on_message
    def note(self, message: kibo.Message) -> None:
        """Keep what comes."""
        self.kept = [*(self.kept or []), [message.event, message.body]]


class Planner(Asking):
    """May do all there is."""

    rights = [MaySpawn(Worker), MaySpawn(Worker(start=100), name="hundred"), MayFork()]
    quota = Quota(instances=6, branches=5, calls_per_s=1000)

    @kibo.action
    def name_by_class(self) -> list[int]:
        """Spawn what is named by its class, by a box of it, and by what the right calls it."""
        boxes = [me.spawn(Worker, start=3), me.spawn(Worker(start=4)), me.spawn("hundred")]
        return [box.add() for box in boxes]


class Deaf(kibo.Box):
    """Has no door."""

    @kibo.action
    def try_me(self) -> tuple[str, str]:
        """Try to call out."""
        try:
            me.progress(1)
        except kibo.KiboError as error:
            return error.code, error.hint
        return "", ""

    @kibo.action
    def sees(self, path: str) -> list[str]:
        """List a directory."""
        return sorted(os.listdir(path))
