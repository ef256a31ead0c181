"""Keeps `os.fork` out of the middle of a transaction of another thread, and databases out of forked children.

SQLite has mutexes of the whole process: a child that is forked while another thread holds one waits for it for ever,
even with connections of its own. And it keeps by process which locks it holds on a file, while the kernel gives a
child none of them: in a child of a process with a database open it takes that file for locked, locks nothing, and
two processes write at once. So a fork waits until no thread is at work on a database, then everything that is open
is closed, and each side opens anew what it needs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Transactions take milliseconds. Where one waits for another process, the fork does not wait as long.
_PATIENCE_S: Final = 5.0

#: Called before each fork, with the threads that are still at work: closes what those do not use.
at_rest: Final[list[Callable[[set[int]], None]]] = []

_changed = threading.Condition()
_working: dict[int, int] = {}  # by thread, how deep
_forking = False


@contextmanager
def at_work() -> Iterator[None]:
    """The time for which a thread uses a database; it waits while another thread forks."""
    enter()
    try:
        yield
    finally:
        leave()


def enter() -> None:
    """Begins to use a database."""
    own = threading.get_ident()
    with _changed:
        while _forking and own not in _working:
            _changed.wait()
        _working[own] = _working.get(own, 0) + 1


def leave() -> None:
    """Ends it."""
    own = threading.get_ident()
    with _changed:
        _working[own] -= 1
        if not _working[own]:
            del _working[own]
        if _forking:
            _changed.notify_all()


def _before() -> None:
    global _forking
    own = threading.get_ident()
    with _changed:
        while _forking:
            _changed.wait()
        _forking = True
        _changed.wait_for(lambda: not _working.keys() - {own}, _PATIENCE_S)
        busy = set(_working)
    for close in at_rest:
        close(busy)


def _in_parent() -> None:
    global _forking
    with _changed:
        _forking = False
        _changed.notify_all()


def _in_child() -> None:
    global _changed, _working, _forking
    _changed, _working, _forking = threading.Condition(), {}, False


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
