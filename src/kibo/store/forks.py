"""Keeps `os.fork` out of the middle of a transaction of another thread.

SQLite has mutexes of the whole process. A child that is forked while another thread holds one waits for it for ever,
even with connections of its own. So a fork waits until no transaction runs, and none begins meanwhile.
"""

from __future__ import annotations

import os
import threading
from typing import Final

#: Transactions take milliseconds. Where one waits for another process, the fork does not wait as long.
_PATIENCE_S: Final = 5.0

_changed = threading.Condition()
_running = 0
_forking = False
_inside = threading.local()


def enter() -> None:
    """Begins a transaction; waits while another thread forks."""
    global _running
    with _changed:
        while _forking:
            _changed.wait()
        _running += 1
    _inside.here = True


def leave() -> None:
    """Ends it."""
    global _running
    _inside.here = False
    with _changed:
        _running -= 1
        if _forking:
            _changed.notify_all()


def _before() -> None:
    global _forking
    own = int(getattr(_inside, "here", False))
    with _changed:
        while _forking:
            _changed.wait()
        _forking = True
        _changed.wait_for(lambda: _running <= own, _PATIENCE_S)


def _in_parent() -> None:
    global _forking
    with _changed:
        _forking = False
        _changed.notify_all()


def _in_child() -> None:
    global _changed, _running, _forking, _inside
    _changed, _running, _forking, _inside = threading.Condition(), 0, False, threading.local()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
