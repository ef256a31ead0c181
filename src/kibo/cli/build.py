"""`kibo build`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter

from kibo.box.plan import Plan, plan
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_value
from kibo.cli.progress import BuildDisplay
from kibo.cli.references import load_box
from kibo.model.errors import InvalidInput
from kibo.runtime.images.environment import BuiltEnvironment, Lock, build_environment
from kibo.runtime.layers.home import state_home
from kibo.wiring import runtime


def build(
    box: str,
    /,
    *,
    locked: Annotated[bool, Parameter(negative="")] = False,
    lock: Path = Path("kibo.lock"),
    launch: bool = True,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Build a box's environment and launch its parts once, so that spawning finds the layers made.

    What was resolved is written to a lock file: names, versions and hashes. Ctrl-C leaves finished steps and nothing
    else.

    Args:
        box: Where the box is defined: module:Name, file.py:Name, or a sum of such.
        locked: Build exactly what the lock file records, or fail. Launches nothing.
        lock: The lock file.
        launch: Whether to launch the parts, to see that they can be.
        common: Options of every command.
    """
    definition = load_box(box)
    wanted = plan(definition)
    record = Lock.read(lock) if locked else None
    if not lock.absolute().parent.is_dir():
        raise InvalidInput(
            f"there is no directory {lock.absolute().parent} for the lock file",
            hint="Make it, or name another file with --lock.",
        )
    begin = time.monotonic()
    with BuildDisplay() as display:
        built = anyio.run(_build, wanted, record, display)
        if not locked:
            built.lock.write(lock)
        if launch and not locked:
            runtime().build(definition, display)
    took = time.monotonic() - begin
    layers = [str(layer.digest) for layer in built.layers]
    facts = {
        "box": wanted.digest,
        "environment": built.digest,
        "layers": layers,
        "lock": str(lock),
        "seconds": took,
    }
    if common.json:
        print_json(facts)
    else:
        verb = "checked against" if locked else "recorded in"
        print_value(f"{wanted.digest}  {len(layers)} layers in {duration(took)}, {verb} {lock}")


async def _build(wanted: Plan, record: Lock | None, display: BuildDisplay) -> BuiltEnvironment:
    return await build_environment(wanted.env, home=state_home(), locked=record, progress=display)
