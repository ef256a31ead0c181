"""Who does the work of an exploration: a port, and threads. `tasks.py` has the same for coroutines."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVar

from kibo.runtime.waiting import run

Happening = Callable[[], object]
Job = Callable[[], Coroutine[Any, Any, None]]
Result = TypeVar("Result")


class Crew(Protocol):
    """Runs jobs at the same time, and carries what they report to whoever conducts them."""

    def start(self, number: int, job: Job) -> None:
        """Starts a job for an attempt; -1 is a job for none."""

    async def call(self, fn: Callable[..., Result], *args: Any) -> Result:
        """Makes a call that may block."""

    def post(self, happening: Happening) -> None:
        """Reports. Called on any thread."""

    async def next(self, timeout_s: float | None) -> Happening | None:
        """Returns the next report; None where none came in time."""

    def cancel(self, number: int) -> None:
        """Cancels the jobs of an attempt, as far as the crew can; its branch has been ended."""

    async def join(self, grace_s: float) -> set[int]:
        """Waits for all jobs. Returns the attempts whose jobs still run after that many seconds."""

    def unbroken(self) -> AbstractContextManager[object]:
        """Returns a block in which cancellation waits."""

    def is_cancellation(self, error: BaseException) -> bool:
        """Says whether an exception in a job is the job's own cancellation, which must go on."""


class Threads:
    """A thread for each job. The conductor is the thread that makes this.

    Ctrl-C reaches the main thread at any instruction, also between those that start a thread and those that note it. So
    the main thread starts one only, the foreman, who starts the others for it.
    """

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._jobs: list[tuple[int, threading.Thread]] = []
        self._to_start: queue.SimpleQueue[tuple[int, Context, Job] | None] = queue.SimpleQueue()
        self._foreman: threading.Thread | None = None

    def start(self, number: int, job: Job) -> None:
        """See `Crew.start`."""
        if threading.current_thread() is not threading.main_thread():
            self._start(number, copy_context(), job)
            return
        self._to_start.put((number, copy_context(), job))
        if self._foreman is None:
            self._foreman = _thread(self._start_what_comes)
            self._foreman.start()

    def _start(self, number: int, context: Context, job: Job) -> None:
        thread = _thread(context.run, run_job, job)
        with self._guard:
            self._jobs = [(n, t) for n, t in self._jobs if t.is_alive()]
            thread.start()
            self._jobs.append((number, thread))

    def _start_what_comes(self) -> None:
        while (order := self._to_start.get()) is not None:
            self._start(*order)

    async def call(self, fn: Callable[..., Result], *args: Any) -> Result:
        """See `Crew.call`."""
        return fn(*args)

    def post(self, happening: Happening) -> None:
        """See `Crew.post`."""
        self._reports.put(happening)

    async def next(self, timeout_s: float | None) -> Happening | None:
        """See `Crew.next`."""
        try:
            return self._reports.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
        except queue.Empty:
            return None

    def cancel(self, number: int) -> None:
        """See `Crew.cancel`. Nothing to do: a thread ends when its call into the ended branch raises."""

    async def join(self, grace_s: float) -> set[int]:
        """See `Crew.join`."""
        until = time.monotonic() + grace_s
        if self._foreman is not None:
            self._to_start.put(None)
            _await_end(self._foreman)
        while True:
            with self._guard:  # a job that forks may start others until it has ended
                going = [(number, thread) for number, thread in self._jobs if thread.is_alive()]
            if not going or time.monotonic() >= until:
                return {number for number, _ in going}
            going[0][1].join(max(0.0, until - time.monotonic()))

    def unbroken(self) -> AbstractContextManager[object]:
        """See `Crew.unbroken`. A second Ctrl-C breaks it: who presses it wants out."""
        return nullcontext()

    def is_cancellation(self, error: BaseException) -> bool:
        """See `Crew.is_cancellation`. Threads are never cancelled."""
        return False


def _thread(target: Callable[..., object], *args: Any) -> threading.Thread:
    # A daemon: one that nobody can interrupt must not keep the program from ending.
    return threading.Thread(target=target, args=args, name="kibo-explore", daemon=True)


def _await_end(thread: threading.Thread) -> None:
    """Waits for the end of a thread whose start may have been interrupted: it may just be coming to be, or never."""
    until = time.monotonic() + 1.0
    while thread.ident is None and time.monotonic() < until:
        time.sleep(0.001)
    if thread.ident is not None:
        thread.join()


def run_job(job: Job) -> None:
    """Runs a job to its end in the calling thread."""
    run(job())
