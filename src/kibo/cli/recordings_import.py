"""`kibo recordings import`."""

from __future__ import annotations

from pathlib import Path

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.effects.recordings import Recordings
from kibo.runtime.layers.home import state_home


def recordings_import(file: Path, /, *, name: str = "", common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Take in a recording that was exported here or elsewhere. A damaged file is refused as a whole.

    Args:
        file: What `kibo recordings export` wrote.
        name: What to call it; by default as it was called there.
        common: Options of every command.
    """
    called, done = Recordings(state_home()).receive(file, name)
    if common.json:
        print_json({"recording": called, "digest": done.digest, "requests": len(done.index.exchanges)})
    else:
        print_value(called)
