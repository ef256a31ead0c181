"""`kibo recordings rm`."""

from __future__ import annotations

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.effects.recordings import Recordings
from kibo.runtime.layers.home import state_home


def recordings_rm(*recordings: str, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Remove recordings. What replays one at this moment goes on.

    Args:
        recordings: Their names.
        common: Options of every command.
    """
    here = Recordings(state_home())
    for recording in recordings:
        here.remove(recording)
    if common.json:
        print_json({"removed": list(recordings)})
    else:
        print_value("\n".join(f"removed {recording}" for recording in recordings))
