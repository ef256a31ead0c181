"""Paths inside a tree that something untrusted wrote: a link in them must not lead the host's root out of it."""

from __future__ import annotations

import os
from pathlib import Path


def beneath(root: Path, name: str) -> Path | None:
    """Joins a fixed name to a tree's root, unless a directory on the way is a link or missing.

    For trees that no process writes any more; the last part itself may be anything, or nothing.

    Returns:
        The path, or None when it is not inside the tree.
    """
    path = root
    parts = name.split("/")
    for part in parts[:-1]:
        path = path / part
        if os.path.islink(path) or not os.path.isdir(path):
            return None
    return path / parts[-1]
