"""Whether git can work in a workspace: a linked worktree, or a submodule, has its repository somewhere else."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

_log: Final = logging.getLogger(__name__)
#: A ``.git`` file is one line with one path.
_MOST_BYTES: Final = 1 << 13
_PREFIX: Final = b"gitdir:"


def warn_of_repository_elsewhere(host: Path) -> None:
    """Says so where git will not work in boxes: in there, it can only say that the repository is not there."""
    place = repository_elsewhere(host)
    if place is not None:
        _log.warning(
            "git will not work in the box: %s is a linked worktree or a submodule, whose repository is at %s, outside "
            "of the workspace. Clone it, or take the directory that has both as the workspace.",
            host,
            place,
        )


def repository_elsewhere(host: Path) -> Path | None:
    """Returns where a directory's git repository is, unless that is inside of it, or it has none."""
    try:
        with open(host / ".git", "rb") as file:
            line = file.read(_MOST_BYTES)
    except OSError:
        return None  # none, or a directory
    if not line.startswith(_PREFIX):
        return None
    named = os.fsdecode(line.removeprefix(_PREFIX).strip())
    place = Path(os.path.normpath(host / named))
    return None if place.is_relative_to(host) and not os.path.isabs(named) else place
