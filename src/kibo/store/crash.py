"""Named points at which a test may stop or kill this process: a no-op everywhere else.

A step that must happen entirely or not at all has a point before and after each of its effects. A fault test sets
``KIBO_CRASH_AT`` to a point's name in a child process, which then ends there as by ``kill -9``: no handler runs, no
buffer is flushed. ``name:3`` ends it at the third passage. A test in one process calls `install` instead.
"""

import os
import signal
from collections.abc import Callable

VARIABLE = "KIBO_CRASH_AT"

_hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Passes a named point. Costs one comparison where no test has armed it.

    Args:
        name: ``"<step>.<before or after>_<effect>"``, such as ``"commit.before_swap"``; unique in the source.
    """
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Calls `hook` with the name of every point that this process passes from now on; None takes it away."""
    global _hook
    _hook = hook


def _armed(wanted: str) -> Callable[[str], None]:
    name, _, count = wanted.partition(":")
    left = int(count or 1)

    def die(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die


if VARIABLE in os.environ:
    install(_armed(os.environ[VARIABLE]))
