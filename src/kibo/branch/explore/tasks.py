"""The crew of coroutines: a task for each job, on whichever event loop anyio runs. `crew.Threads` is its twin."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal

from kibo.branch.explore.crew import Happening, Job

Result = TypeVar("Result")


class Tasks:
    """Runs jobs in a task group.

    Args:
        group: Where they run.
        portal: The way in from other threads.
    """

    def __init__(self, group: TaskGroup, portal: BlockingPortal) -> None:
        self._group = group
        self._portal = portal
        self._home = threading.get_ident()
        self._send, self._receive = anyio.create_memory_object_stream[Happening](math.inf)
        self._jobs: dict[anyio.CancelScope, int] = {}
        self._cancelled: set[int] = set()
        self._over = False
        self._none_left = anyio.Event()
        # Of its own: an abort must not wait behind other users of the loop's threads.
        self._limiter = anyio.CapacityLimiter(math.inf)

    def start(self, number: int, job: Job) -> None:
        """See `Crew.start`."""
        scope = anyio.CancelScope()
        self._jobs[scope] = number
        if number in self._cancelled:
            scope.cancel()
        self._group.start_soon(self._run, scope, job)

    async def _run(self, scope: anyio.CancelScope, job: Job) -> None:
        try:
            with scope:
                await job()
        finally:
            del self._jobs[scope]
            if not self._jobs:
                self._none_left.set()

    async def call(self, fn: Callable[..., Result], *args: Any) -> Result:
        """See `Crew.call`. A call under way is waited for, cancelled or not: what it makes must not be lost."""
        return await anyio.to_thread.run_sync(partial(fn, *args), limiter=self._limiter)

    def post(self, happening: Happening) -> None:
        """See `Crew.post`."""
        if self._over:
            return
        if threading.get_ident() == self._home:
            self._send.send_nowait(happening)
            return
        try:
            self._portal.start_task_soon(self._send.send_nowait, happening)
        except RuntimeError:
            pass  # it ended between the look above and now: nobody is left to tell

    async def next(self, timeout_s: float | None) -> Happening | None:
        """See `Crew.next`."""
        with anyio.move_on_after(None if timeout_s is None else max(0.0, timeout_s)):
            return await self._receive.receive()
        return None

    def cancel(self, number: int) -> None:
        """See `Crew.cancel`."""
        self._cancelled.add(number)
        for scope, of in self._jobs.items():
            if of == number:
                scope.cancel()

    async def join(self, grace_s: float) -> set[int]:
        """See `Crew.join`. Cancels what still runs; a task always ends, so there is no need of a grace."""
        for scope in self._jobs:
            scope.cancel()
        while self._jobs:
            self._none_left = anyio.Event()
            await self._none_left.wait()
        self._over = True
        self._send.close()
        self._receive.close()
        return set()

    def unbroken(self) -> AbstractContextManager[object]:
        """See `Crew.unbroken`."""
        return anyio.CancelScope(shield=True)

    def is_cancellation(self, error: BaseException) -> bool:
        """See `Crew.is_cancellation`."""
        return isinstance(error, anyio.get_cancelled_exc_class())
