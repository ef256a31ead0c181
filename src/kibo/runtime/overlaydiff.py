"""What a box changed, read from its writable layer without looking at anything else.

Whiteouts and opaque directories have the form that overlayfs gives them in a user namespace (character device 0/0, or
the ``user.overlay`` attributes). Source: overlayfs in the kernel's documentation.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

from kibo.runtime import wire

#: Entries of one frame.
BATCH = 4096
_OPAQUE = "user.overlay.opaque"


def write_listing(stream: socket.socket, upper_fd: int, lowers: tuple[str, ...]) -> None:
    """Sends ``[kind, path, size]`` for every change, in order of path, in frames of at most `BATCH`, then an empty one."""
    batch = []
    for change in changes(f"/proc/self/fd/{upper_fd}/u", lowers):
        batch.append(change)
        if len(batch) == BATCH:
            wire.send_frame(stream, batch)
            batch = []
    if batch:
        wire.send_frame(stream, batch)
    wire.send_frame(stream, [])


def changes(upper: str, lowers: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """Lists what an upper layer adds to, changes in and removes from the layers below it.

    Args:
        upper: The upper layer's directory.
        lowers: The layers below it, lowest first.

    Yields:
        ``(kind, path, size)``, in order of path: kind is ``added``, ``changed`` or ``removed``; the path has no
        leading slash; size in bytes.
    """
    yield from _below(upper, "", lowers)


def _below(upper: str, relative: str, lowers: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    with os.scandir(f"{upper}/{relative}") as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{relative}{entry.name}"
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            yield ("removed", path, 0)
            continue
        existed = _exists(path, lowers)
        if not stat.S_ISDIR(info.st_mode):
            yield ("changed" if existed else "added", path, info.st_size)
            continue
        if not existed:
            yield ("added", path + "/", 0)
        yield from _below(upper, path + "/", () if _is_opaque(entry.path) else lowers)


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _exists(path: str, lowers: tuple[str, ...]) -> bool:
    for lower in reversed(lowers):
        try:
            info = os.lstat(f"{lower}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        return not (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0)
    return False
