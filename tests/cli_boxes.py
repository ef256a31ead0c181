"""Boxes that the tests of the command line name."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from kibo import Allow, Box, Deny, Env, Service, action, use


@dataclass(frozen=True)
class Greeting:
    """What Hello says."""

    text: str
    times: int


class Hello(Box):
    """Says hello."""

    name: str = "world"
    shout: bool = False

    def launch(self) -> None:
        """Leaves a file."""
        with open("/work/launched", "w") as file:
            file.write(self.name)

    @action
    def greet(self, times: int = 1, note: str | None = None) -> Greeting:
        """Greet."""
        print("greeting", note)
        text = f"hello {self.name}"
        return Greeting(text.upper() if self.shout else text, times)

    @action
    def echo(self, text: str) -> str:
        """Return the text."""
        return text

    @action
    def picture(self) -> bytes:
        """Return bytes."""
        return b"\x89PNG\n"

    @action
    def count(self, to: int) -> Iterator[int]:
        """Count."""
        for number in range(to):
            print("at", number)
            yield number

    @action
    def mark(self) -> int:
        """Count the calls, in memory."""
        self.marks = getattr(self, "marks", 0) + 1
        return self.marks

    @action
    def fail(self) -> None:
        """Raise."""
        raise LookupError("nothing here")

    @action
    def nap(self, seconds: float) -> None:
        """Sleep."""
        print("napping")
        sys.stdout.flush()
        time.sleep(seconds)


class Reply(Box):
    """Answers who said hello."""

    hello = use(Hello)

    @action
    def reply(self) -> str:
        """Return who."""
        return f"hi {self.hello.name}"


class SlowBuild(Box):
    """Takes long to build."""

    env = Env(run=["echo begun; sleep 600"])


class SlowLaunch(Box):
    """Takes long to launch."""

    def launch(self) -> None:
        """Waits."""
        time.sleep(600)


class BadBuild(Box):
    """Cannot be built."""

    env = Env(run=["echo this is why; exit 3"])


class BadLaunch(Box):
    """Cannot be launched."""

    def launch(self) -> None:
        """Raises."""
        raise RuntimeError("no way")


class Noted(Box):
    """Has a file from a build step."""

    env = Env(run=["echo built > /opt/note"])


class Serving(Box):
    """Has a service."""

    env = Env(
        services=[
            Service("talker", "echo I talk; touch /tmp/up; exec sleep 600", ready="cmd:test -e /tmp/up")
        ]
    )


bob = Hello(name="bob")
not_a_box = 3


class Caller(Box):
    """Calls out."""

    egress = [
        Allow("api.example", methods=("GET",), paths=("/v1/*",)),
        Allow("test.example", to="127.0.0.1:9"),
        Allow("db.example:5432", to="127.0.0.1:9", tcp=True),
        Deny("bad.example"),
    ]
