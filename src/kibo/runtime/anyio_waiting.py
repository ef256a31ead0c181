"""The runtime's waiting on an event loop, whichever anyio runs on. `Blocking` is its twin for plain callers."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio import get_current_task
from anyio.lowlevel import checkpoint, current_token

from kibo.model.errors import RuntimeLost
from kibo.runtime.waiting import Lock, Outside, Result, held_error


class AnyioWaiting:
    """Waits in the calling task, whose cancellation ends the wait."""

    async def ready(
        self, readers: Sequence[int], writers: Sequence[int] = (), timeout_s: float | None = None
    ) -> list[int]:
        """See `Waiting.ready`."""
        # Asked first, because most answers are there already and a wait on the loop costs ten times this call.
        found = _ready_now(readers, writers)
        if found:
            await checkpoint()
            return found
        with anyio.fail_after(None if timeout_s is None else max(0.0, timeout_s)):
            await _until_any(readers, writers)
        return _ready_now(readers, writers)

    def lock(self) -> Lock:
        """See `Waiting.lock`."""
        return _TaskLock()

    def undivided(self) -> AbstractContextManager[object]:
        """See `Waiting.undivided`: what waits in it heeds no cancellation itself."""
        return nullcontext()

    def unbroken(self) -> AbstractContextManager[object]:
        """See `Waiting.unbroken`."""
        return anyio.CancelScope(shield=True)

    async def aside(self, work: Callable[[], Result]) -> Result:
        """See `Waiting.aside`. In a thread, where it keeps no other task waiting."""
        return await self.whole(anyio.to_thread.run_sync(work))

    async def whole(self, work: Coroutine[Any, Any, Result]) -> Result:
        """See `Waiting.whole`."""
        if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                return await work
        # A task of its own: asyncio's own cancel(), as of `asyncio.timeout`, heeds no shield.
        task = asyncio.ensure_future(work)
        told: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not task.done():
                try:
                    await asyncio.wait({task})
                except asyncio.CancelledError as error:
                    told = error
        waiter = asyncio.current_task()
        if told is not None and waiter is not None:
            # Taken back and told again, so that it counts once.
            waiter.uncancel()
            waiter.cancel(*told.args)
        return task.result()

    def loop(self) -> object:
        """Returns the event loop that this is called on."""
        return current_token().native_token

    def outside(self) -> Outside:
        """See `Waiting.outside`: as a task of the loop that this is called on."""
        token = current_token()

        def on_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
            try:
                return anyio.from_thread.run(work, token=token)
            except anyio.RunFinishedError as error:
                raise RuntimeLost(
                    "the event loop has ended", hint="Go on with the branch on another."
                ) from error

        return on_loop


def _ready_now(readers: Sequence[int], writers: Sequence[int]) -> list[int]:
    poll = select.poll()
    for fd in readers:
        poll.register(fd, select.POLLIN)
    for fd in writers:
        poll.register(fd, select.POLLOUT)
    return [fd for fd, _ in poll.poll(0)]


async def _until_any(readers: Sequence[int], writers: Sequence[int]) -> None:
    """Returns when one of the descriptors is ready."""
    if len(readers) == 1 and not writers:
        await anyio.wait_readable(readers[0])
        return
    if len(writers) == 1 and not readers:
        await anyio.wait_writable(writers[0])
        return

    async def wait(until: Callable[[int], Awaitable[None]], fd: int) -> None:
        await until(fd)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for fd in readers:
            group.start_soon(wait, anyio.wait_readable, fd)
        for fd in writers:
            group.start_soon(wait, anyio.wait_writable, fd)


class _TaskLock(AbstractAsyncContextManager[object]):
    """A lock that another task may release than took it: streams are closed by whoever has them last."""

    def __init__(self) -> None:
        self._free = anyio.Semaphore(1, max_value=1)
        self._holder = 0

    async def __aenter__(self) -> None:
        me = get_current_task().id
        if self._holder == me:
            raise held_error()
        await self._free.acquire()
        self._holder = me

    async def within(self, timeout_s: float) -> bool:
        with anyio.move_on_after(timeout_s):
            await self.__aenter__()
            return True
        return False

    @property
    def held(self) -> bool:
        return self._free.value == 0

    async def __aexit__(self, *_: object) -> None:
        self._holder = 0
        self._free.release()
