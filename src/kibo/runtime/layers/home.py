"""The state directory: where layers, the index of what was built, and work in progress lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from kibo.model.errors import WrongState
from kibo.runtime.idmap import ROOT_BASE, choose_map


def state_home() -> Path:
    """Returns the state directory that the environment names: ``KIBO_HOME``, else below ``XDG_DATA_HOME``.

    The directory need not exist; `prepare_home` makes it.
    """
    if named := os.environ.get("KIBO_HOME"):
        return Path(named).absolute()
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data).absolute() / "kibo"


def kernel_features_to_do_without() -> list[str]:
    """Reads ``KIBO_KERNEL_WITHOUT``, by which tests run as on an older kernel: names of `oldermounts.Features`."""
    return os.environ.get("KIBO_KERNEL_WITHOUT", "").split()


def prepare_home(home: Path) -> None:
    """Makes the state directory and its parts, readable by their owner alone. Costs one stat when they exist.

    Raises:
        OSError: The directory cannot be made or entered.
        WrongState: It is of boxes with other ids, to which its files would belong.
    """
    chosen = choose_map()
    if (home / "deltas").is_dir():
        _check_ids(home, chosen.kind)
        return
    for path in (
        home,
        *(home / part for part in ("layers", "keys", "locks", "tmp", "run", "logs", "deltas")),
    ):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Boxes' ids, which are nobody's on the host, pass through to the layers; the directory above keeps others out.
    (home / "layers").chmod(0o711)
    (home / "deltas").chmod(0o711)
    _check_ids(home, chosen.kind)
    if chosen.kind == "root":
        # The warden makes what lies in there, and is no root of the host's.
        os.chown(home / "deltas", ROOT_BASE, ROOT_BASE)


def _check_ids(home: Path, kind: str) -> None:
    """Notes whose ids the files of a state directory have, or sees that they are these boxes' own."""
    note = home / "ids"
    try:
        with open(note, "x") as file:
            file.write(kind)
        return
    except FileExistsError:
        before = note.read_text()
    # Empty: whoever makes the directory at this moment, or lost its power doing so, is of the same user.
    if before and before != kind:
        raise WrongState(
            f"the boxes of {home} have other ids ({before}) than those of this process ({kind})",
            hint="Point KIBO_HOME at another directory, or go on as the same user, with the same KIBO_IDS.",
            details={"path": str(home), "before": before, "now": kind},
        )
