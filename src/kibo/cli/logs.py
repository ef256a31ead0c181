"""`kibo logs`."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Final

from cyclopts import Parameter

from kibo.cli.instances import open_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json
from kibo.model.errors import KiboError
from kibo.runtime.instance import RunningBox, handle_of
from kibo.runtime.waiting import run

#: How often a log is looked at while it is followed: it is a file in memory, which tells nobody that it grew.
_LOOK_S: Final = 0.1


def logs(
    instance: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    tail: int = 0,
    service: str = "",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Print what an instance's actions, or one of its services, have printed.

    Args:
        instance: Its id, the first digits of its id, or its name.
        follow: Go on with what comes, until the instance ends.
        tail: Only that many bytes of the end; 0 for all.
        service: Print what this service of the box has printed.
        common: Options of every command. With --json, text comes in objects with `log`.
    """
    box = open_instance(instance)
    if not follow:
        text = box.logs(tail or None, service=service)
        if common.json:
            print_json({"log": text})
        else:
            sys.stdout.write(text)
        return
    _follow(box, tail, service, as_json=common.json)


def _follow(box: RunningBox, tail: int, service: str, *, as_json: bool) -> None:
    fd = run(handle_of(box).log_file(service))
    try:
        size = os.fstat(fd).st_size
        place = max(0, size - tail) if tail else 0
        while True:
            running = _runs(box)
            # Asked before the last look, so that what was printed at the end is seen.
            while piece := os.pread(fd, 65536, place):
                place += len(piece)
                if as_json:
                    print_json({"log": piece.decode(errors="replace")})
                else:
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()
            if not running:
                return
            time.sleep(_LOOK_S)
    finally:
        os.close(fd)


def _runs(box: RunningBox) -> bool:
    try:
        return box.status == "running"
    except KiboError:
        return False  # the runtime went, and the instance with it
