"""How the runtime waits: one core of coroutines, and two ways to run it.

Everything that talks to wardens and guests is written once, as coroutines that wait only through this port. Run on
`Blocking`, they never suspend, so a plain call drives them from start to end in the caller's thread, at the price of
the system calls alone; the asynchronous face runs the same coroutines on its event loop.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from kibo.model.errors import WrongState
from kibo.model.interrupts import held_back

Result = TypeVar("Result")


#: Does on a thread what waits elsewhere: takes what makes the coroutine, and returns what that returns.
Outside = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


class Lock(AbstractAsyncContextManager[object], Protocol):
    """Held by one thread or task at a time; another may release it."""

    async def within(self, timeout_s: float) -> bool:
        """Enters as ``async with`` does, unless it is held for so long. Returns whether it has.

        Raises:
            WrongState: The same thread or task holds it already.
        """

    @property
    def held(self) -> bool:
        """Whether anybody holds it."""


class Waiting(Protocol):
    """Waits for descriptors."""

    async def ready(
        self, readers: Sequence[int], writers: Sequence[int] = (), timeout_s: float | None = None
    ) -> list[int]:
        """Returns the descriptors that can be read (or were closed) or written, at least one.

        Raises:
            TimeoutError: ``timeout_s`` seconds passed first.
        """

    def lock(self) -> Lock:
        """Makes a lock that whoever comes second waits for.

        Raises:
            WrongState: On entering, where the same thread or task holds it already and would wait for ever.
        """

    def unbroken(self) -> AbstractContextManager[object]:
        """Returns a block in which cancellation waits: for tidying up, with deadlines of its own."""

    def undivided(self) -> AbstractContextManager[object]:
        """Returns a block that is not broken off between two of its steps, such as a decision's record and what follows
        from it. Of what waits in it, each is `aside` or `whole`.
        """

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Does what waits for a disk or a database. Cancelled, it is done all the same; the next wait is told."""

    async def whole(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does what must not be left half done. Cancelled, it goes on to its end; the next wait is told."""

    def outside(self) -> Outside:
        """Returns how a thread of the runtime's own does what waits as here. Called where that waits."""


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

    def lock(self) -> Lock:
        """See `Waiting.lock`."""
        return _ThreadLock()

    def unbroken(self) -> AbstractContextManager[object]:
        """See `Waiting.unbroken`. A second Ctrl-C breaks it: who presses it wants out."""
        return nullcontext()

    def undivided(self) -> AbstractContextManager[object]:
        """See `Waiting.undivided`: the first Ctrl-C comes at its end."""
        return held_back()

    async def aside(self, work: Callable[[], Result]) -> Result:
        """See `Waiting.aside`."""
        return work()

    async def whole(self, work: Coroutine[Any, Any, Result]) -> Result:
        """See `Waiting.whole`. Ctrl-C breaks it, as `unbroken`."""
        return await work

    def outside(self) -> Outside:
        """See `Waiting.outside`: on the thread itself."""
        return lambda work: run(work())


class _ThreadLock(AbstractAsyncContextManager[object]):
    """A thread's lock that a generator of another thread may release, as the garbage collector has it."""

    __slots__ = ("_holder", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0

    async def __aenter__(self) -> None:
        if self._holder == threading.get_ident():
            raise held_error()
        self._lock.acquire()
        self._holder = threading.get_ident()

    async def within(self, timeout_s: float) -> bool:
        if self._holder == threading.get_ident():
            raise held_error()
        if not self._lock.acquire(timeout=timeout_s):
            return False
        self._holder = threading.get_ident()
        return True

    @property
    def held(self) -> bool:
        return self._lock.locked()

    async def __aexit__(self, *_: object) -> None:
        self._holder = 0
        self._lock.release()


def held_error() -> WrongState:
    """The error for waiting on what one holds oneself."""
    return WrongState(
        "this thread or task is in the middle of another call to the instance",
        hint="Read the stream to its end, or close it, before the next call; or call from another thread or task.",
    )


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
