"""`kibo recordings export`."""

from __future__ import annotations

from pathlib import Path

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, size
from kibo.effects.recordings import Recordings
from kibo.runtime.layers.home import state_home


def recordings_export(recording: str, file: Path, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Write a recording into one verified file, which `replay=` takes as it is: to lie beside tests, say.

    Args:
        recording: Its name.
        file: A new file; it should end in .recording.
        common: Options of every command.
    """
    done = Recordings(state_home()).send(recording, file)
    requests = len(done.index.exchanges)
    if common.json:
        facts = {"file": str(file), "digest": done.digest, "bytes": done.total_bytes, "requests": requests}
        print_json({"recording": recording, **facts})
    else:
        print_value(f"exported {recording} to {file}: {size(done.total_bytes)}\ndigest {done.digest}")
