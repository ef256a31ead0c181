"""The state directory: where layers, the index of what was built, and work in progress lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def state_home() -> Path:
    """Returns the state directory that the environment names: ``KIBO_HOME``, else below ``XDG_DATA_HOME``.

    The directory need not exist; `prepare_home` makes it.
    """
    if named := os.environ.get("KIBO_HOME"):
        return Path(named).absolute()
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data).absolute() / "kibo"


def prepare_home(home: Path) -> None:
    """Makes the state directory and its parts, readable by their owner alone. Costs one stat when they exist.

    Raises:
        OSError: The directory cannot be made or entered.
    """
    if (home / "logs").is_dir():
        return
    for path in (home, *(home / part for part in ("layers", "keys", "locks", "tmp", "run", "logs"))):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Boxes' ids, which are nobody's on the host, pass through to the layers; the directory above keeps others out.
    (home / "layers").chmod(0o711)
