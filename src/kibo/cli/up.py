"""`kibo up`."""

from __future__ import annotations

import threading

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.wiring import runtime


def up(*, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Carry runs out in this process, until it is ended: those that are submitted from now on, and those that wait.

    Where another process does already, this one takes over once that has ended. SIGTERM and Ctrl-C end it; what it runs
    then is placed anew by whoever carries runs out next.

    Args:
        common: Options of every command.
    """
    runtime().scheduling().carry_out()
    if common.json:
        print_json({"up": True})
    else:
        print_value("carrying runs out; Ctrl-C ends it")
    threading.Event().wait()  # a signal ends it: SIGTERM as Ctrl-C does
