"""How the runtime waits: one core of coroutines, and two ways to run it.

Everything that talks to wardens and guests is written once, as coroutines that wait only through this port. Run on
`Blocking`, they never suspend, so a plain call drives them from start to end in the caller's thread, at the price of the
system calls alone; the asynchronous face runs the same coroutines on its event loop.
"""

from __future__ import annotations

import select
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Waiting(Protocol):
    """Waits for descriptors."""

    async def ready(
        self, readers: Sequence[int], writers: Sequence[int] = (), timeout_s: float | None = None
    ) -> list[int]:
        """Returns the descriptors that can be read (or were closed) or written, at least one.

        Raises:
            TimeoutError: ``timeout_s`` seconds passed first.
        """


class Blocking:
    """Waits in the calling thread."""

    async def ready(
        self, readers: Sequence[int], writers: Sequence[int] = (), timeout_s: float | None = None
    ) -> list[int]:
        """See `Waiting.ready`."""
        poll = select.poll()
        for fd in readers:
            poll.register(fd, select.POLLIN)
        for fd in writers:
            poll.register(fd, select.POLLOUT)
        found = poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        if not found:
            raise TimeoutError
        return [fd for fd, _ in found]


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Drives a coroutine that waits through `Blocking` alone.

    Raises:
        RuntimeError: It waited for something else.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: Result = end.value
        return value
    coroutine.close()
    raise RuntimeError("a coroutine of the runtime suspended outside of its port")
