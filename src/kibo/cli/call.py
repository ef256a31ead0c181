"""`kibo call`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.cli.failures import Reported
from kibo.cli.instances import find_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.served import CALLS_SOCKET
from kibo.model.errors import InstanceEnded, WrongState
from kibo.runtime import wire
from kibo.runtime.layers.home import state_home


def call(
    instance: str,
    action: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Call an action of an instance that `kibo spawn` keeps, and print its result.

    What the action prints comes on standard error, once it is over. The items of a streaming action are printed as they
    come. Calls wait for each other; Ctrl-C interrupts this one, and the instance lives on.

    Args:
        instance: Its id, the first digits of its id, or its name.
        action: The action's name.
        arguments: name=value, plain values by position, or a JSON object or list.
        common: Options of every command.
    """
    found = find_instance(instance)
    with _connect(state_home() / "run" / found.session.name, instance) as holder:
        wire.send_frame(holder, [action, list(arguments)])
        while True:
            try:
                kind, value, *rest = wire.receive_frame(holder)
            except (wire.Closed, wire.FrameError, ConnectionError):
                raise InstanceEnded(
                    f"{instance} ended while {action}() ran", hint="`kibo ps` lists what runs."
                ) from None
            if kind == "failed":
                raise Reported(value, rest[0])
            if kind == "result":
                _print({"instance": found.id, "result": value} if common.json else value, common)
                return
            if kind == "item":
                _print({"item": value} if common.json else value, common)
            else:
                sys.stderr.write(value.decode(errors="replace"))
                sys.stderr.flush()


def _print(value: Any, common: Common) -> None:
    if common.json:
        print_json(value)
    else:
        print_value(value)


def _connect(directory: Path, instance: str) -> socket.socket:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    here = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        holder.connect(f"/proc/self/fd/{here}/{CALLS_SOCKET}")
    except OSError:
        holder.close()
        raise WrongState(
            f"the actions of {instance} are its own program's to call",
            hint="Call them there. `kibo exec`, `shell` and `logs` reach it from here; "
            "`kibo spawn` keeps instances that `kibo call` reaches.",
            details={"instance": instance},
        ) from None
    finally:
        os.close(here)
    return holder
