"""Steps that a test has a process of its own take, in which that may be killed."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from typing import NamedTuple

from kibo.store import crash


class Ended(NamedTuple):
    """How a process ended, as `subprocess` has it, and what it said of an error."""

    returncode: int
    stderr: str


def forked(deed: Callable[..., object], *arguments: object, crash_at: str = "") -> Ended:
    """Has a fork of this process do something: an interpreter with Kibo takes a second to start.

    It is for files and stores alone, which are opened in it and are not open here. What runs boxes has threads, and
    needs a program.

    Args:
        crash_at: The named point at which it ends as by ``kill -9``, as ``KIBO_CRASH_AT`` has it; empty for none.
    """
    with tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                crash.install(crash._armed(crash_at) if crash_at else None)
                deed(*arguments)
                code = 0
            except BaseException:  # noqa: BLE001 (as an interpreter does in the end)
                traceback.print_exc(file=errors)
                errors.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        errors.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), errors.read())
