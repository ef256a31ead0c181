"""Boxes that send to each other: they keep what they get, and say so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import kibo


class Reader(kibo.Box):
    """Keeps the messages that it gets."""

    def launch(self) -> None:
        self.got: list[Any] = []
        self.ids: list[str] = []

    @kibo.on_message
    def note(self, message: kibo.Message) -> Any:
        """Keep a message, or do what it says."""
        self.ids.append(message.id)
        match message.body:
            case {"raise": times} if message.attempt <= times:
                raise ValueError(f"attempt {message.attempt}")
            case {"sleep": seconds}:
                time.sleep(seconds)
            case {"exit": status}:
                os._exit(status)
            case {"return": value}:
                return value
        self.got.append(message.body)
        return len(self.got)

    @kibo.action
    def work(self, seconds: float) -> int:
        """Be busy for a while, and say how much was kept meanwhile."""
        before = len(self.got)
        time.sleep(seconds)
        return len(self.got) - before

    @kibo.action(effect="read")
    def read(self) -> list[Any]:
        """Return what was kept."""
        return self.got

    @kibo.action(effect="read")
    def seen(self) -> list[str]:
        """Return the ids of all deliveries."""
        return self.ids


class Listener(kibo.Box):
    """Keeps the events that it hears of."""

    def launch(self) -> None:
        self.heard: list[Any] = []

    @kibo.on_event("order.*.paid")
    def paid(self, event: kibo.Message) -> None:
        """Keep an event."""
        self.heard.append([event.event, event.body])

    @kibo.on_event("bell")
    def rang(self) -> None:
        """Keep that it rang."""
        self.heard.append("bell")

    @kibo.on_event("work.>", group="workers")
    def work(self, event: kibo.Message) -> None:
        """Keep work that no other of the group gets."""
        self.heard.append(event.body)

    @kibo.action(effect="read")
    def hearing(self) -> list[Any]:
        """Return what was kept."""
        return self.heard


class Plain(kibo.Box):
    """Handles nothing."""


class Stepper(kibo.Box):
    """Does things that take a while."""

    @kibo.action
    def walk(self, steps: int) -> Iterator[int]:
        """Walk, and say so at each step."""
        yield from range(steps)

    @kibo.action
    def add(self, one: int, other: int) -> int:
        """Add."""
        return one + other

    @kibo.action
    def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    @kibo.action
    def fail(self) -> None:
        """Fail."""
        raise ValueError("no")


class Clerk(kibo.Box):
    """Keeps what it gets in a file, a line each, and passes it on."""

    rights = [kibo.MayTalk()]

    @kibo.on_message
    def keep(self, message: kibo.Message) -> None:
        """Keep a number, and pass it on if it says to whom."""
        number, to = message.body
        with open("/work/kept", "a") as file:
            file.write(f"{number}\n")
        while os.path.exists("/work/wait"):
            time.sleep(0.002)
        if to:
            self.tell(to, number)

    @kibo.action
    def tell(self, to: str, body: Any) -> None:
        """Send a message, as code in a box does."""
        from kibo import me

        me.send_message(to, body)

    @kibo.action(effect="read")
    def kept(self) -> list[int]:
        """Return what was kept."""
        try:
            with open("/work/kept") as file:
                return [int(line) for line in file]
        except FileNotFoundError:
            return []


class Taker(kibo.Box):
    """Receives when it is told to."""

    rights = [kibo.MayTalk()]

    @kibo.action
    def take(self, count: int) -> list[Any]:
        """Receive so many, or what there is, and say of each that it is done."""
        from kibo import me

        found: list[Any] = []
        while len(found) < count and (message := me.receive()) is not None:
            found.append(message.body)
            me.done(message)
        return found


class Tally(kibo.Box):
    """Counts numbers that are to come from each sender one after the other."""

    def launch(self) -> None:
        self.counts: dict[str, int] = {}
        self.wrong = 0

    @kibo.on_message
    def take(self, message: kibo.Message) -> None:
        """Count one, and whether it is its sender's next."""
        count = self.counts.get(message.sender, 0)
        self.wrong += message.body != count
        self.counts[message.sender] = count + 1

    @kibo.action(effect="read")
    def told(self) -> list[int]:
        """Return how many came, and how many of them were not the next."""
        return [sum(self.counts.values()), self.wrong]
