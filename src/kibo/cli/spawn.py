"""`kibo spawn`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kibo.cli.holding import start_holder
from kibo.cli.instances import check_name
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.progress import BuildDisplay
from kibo.model.durations import seconds


def spawn(
    box: str,
    /,
    *,
    name: Annotated[str, Parameter(name=["--name", "-n"])] = "",
    ttl: str = "",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Spawn a box and keep the instance in the background, until it is stopped or its time is over.

    Prints the instance's id. `kibo call`, `exec`, `shell`, `logs`, `diff` and `stop` take it, its first
    digits, or the name.

    Args:
        box: Where the box is defined: module:Name, file.py:Name, or a sum of such.
        name: What to call the instance.
        ttl: How long it may live, such as 90s, 10m or 2h. Without it, until it is stopped or the machine is.
        common: Options of every command.
    """
    ttl_s = seconds(ttl) if ttl else None
    if name:
        check_name(name)
    with BuildDisplay() as display:
        held = start_holder(box, name, ttl_s, display)
    if common.json:
        print_json(held)
    else:
        print_value(held["instance"])
