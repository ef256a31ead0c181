"""`kibo run`."""

from __future__ import annotations

import sys
import time
from types import GeneratorType
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.box.plan import action_of
from kibo.cli.calls import read_arguments
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.progress import BuildDisplay
from kibo.cli.references import load_box
from kibo.runtime.instance import Instance
from kibo.wiring import runtime


def run(
    box: str,
    action: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    record: str | None = None,
    replay: str | None = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Spawn a box, call one action, print its result, and destroy the box.

    What the action prints comes on standard error. The items of a streaming action are printed as they come.

    Args:
        box: Where the box is defined: module:Name, file.py:Name, or a sum of such.
        action: The action's name.
        arguments: name=value, plain values by position, or a JSON object or list.
        record: Record what the box asks servers for, and is answered, under this name.
        replay: The recording, by its name or its file, that answers in place of servers.
        common: Options of every command.
    """
    definition = load_box(box)
    spec = action_of(definition, action)
    positional, named = read_arguments(spec, arguments)
    # Checked here too, so that a wrong argument costs no spawn.
    spec.check_arguments(positional, named)
    with BuildDisplay() as display:
        begin = time.monotonic()
        instance = runtime().spawn(definition, progress=display, record=record or False, replay=replay)
        spawned = time.monotonic()
    with instance:
        try:
            result = getattr(instance, action)(*positional, **named)
            if isinstance(result, GeneratorType):
                result = _print_items(result, as_json=common.json)
        finally:
            _print_log(instance, as_json=common.json)
        if common.json:
            times = {"spawn": spawned - begin, "action": time.monotonic() - spawned}
            print_json({"instance": instance.id, "result": result, "seconds": times})
        else:
            print_value(result)


def _print_items(stream: GeneratorType[Any, None, Any], *, as_json: bool) -> Any:
    while True:
        try:
            item = next(stream)
        except StopIteration as end:
            return end.value
        if as_json:
            print_json({"item": item})
        else:
            print_value(item)


def _print_log(instance: Instance, *, as_json: bool) -> None:
    if instance.status == "running" and (text := instance.logs()):
        stream = sys.stderr
        stream.write(text)
        stream.flush()
