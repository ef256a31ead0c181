"""What Python does in a new process after a fork, less what only matters where there were other threads.

``threading`` and ``logging`` make all of their locks anew, in case a thread that is gone held one. A guest that is
forked has one thread, so nobody held any; but the work touches nearly two hundred pages, each copied for the child. The
two hooks are therefore taken out of the interpreter's list for Kibo's own forks and put back in the child, whose own
forks may well have threads. The list has no name; it is found as what refers to a hook.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any, Final


def _find() -> list[Any] | None:
    """Finds the interpreter's list of hooks, or None in an interpreter that keeps it elsewhere: then all are run."""
    hook = getattr(threading, "_after_fork", None)
    found = [held for held in gc.get_referrers(hook) if type(held) is list] if hook is not None else []
    return found[0] if len(found) == 1 and all(callable(each) for each in found[0]) else None


# At import, which is before anything is frozen: the collector does not look at frozen objects.
_HOOKS: Final = _find()


class AfterFork:
    """The hooks of one guest."""

    def __init__(self) -> None:
        self._all: list[Any] = []
        self._logging_lock: Any = None

    def thin(self) -> None:
        """Takes the hooks for threads out. The process has one thread and is going to be forked from."""
        if _HOOKS is None:
            return
        needless: list[Any] = [threading._after_fork]  # type: ignore[attr-defined]
        logging: Any = sys.modules.get("logging")
        relock, lock = (
            getattr(logging, "_after_at_fork_child_reinit_locks", None),
            getattr(logging, "_lock", None),
        )
        if relock in _HOOKS and lock is not None:
            needless.append(relock)
            self._logging_lock = lock
        self._all = list(_HOOKS)
        _HOOKS[:] = [hook for hook in _HOOKS if hook not in needless]

    def put_back(self) -> None:
        """Puts them back, in a process that goes on itself."""
        if _HOOKS is not None and self._all:
            _HOOKS[:] = self._all

    def restore(self) -> None:
        """Puts them back, in a fork."""
        if _HOOKS is None:
            return
        self.put_back()
        if self._logging_lock is not None:
            # Taken by a hook before the fork, to be made anew after it; the same thread still holds it.
            self._logging_lock.release()
