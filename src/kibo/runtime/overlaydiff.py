"""What a box changed, read from its writable layer without looking at anything else.

Whiteouts and opaque directories have the form that overlayfs gives them in a user namespace (character device 0/0, or
the ``user.overlay`` attributes). Source: overlayfs in the kernel's documentation.
"""

from __future__ import annotations

import errno
import heapq
import os
import socket
import stat
from collections.abc import Iterator, Sequence

from kibo.runtime import wire

#: Entries of one frame.
BATCH = 4096
_OPAQUE = "user.overlay.opaque"


def write_listing(stream: socket.socket, trees: Sequence[tuple[str, str, Sequence[str]]]) -> None:
    """Sends ``[kind, path, size]`` for every change, in order of path, in frames of at most `BATCH`, then an empty one.

    Args:
        stream: Where to.
        trees: For each overlay of the box: where it is mounted (``""`` or ``"usr/"``), its upper layer's directory,
            and those of the layers below, lowest first.
    """
    found = [changes(upper, lowers, place) for place, upper, lowers in trees]
    batch: list[tuple[str, bytes, int]] = []
    for kind, path, size in heapq.merge(*found, key=lambda change: change[1].split("/")):
        batch.append((kind, os.fsencode(path), size))
        if len(batch) == BATCH:
            wire.send_frame(stream, batch)
            batch = []
    if batch:
        wire.send_frame(stream, batch)
    wire.send_frame(stream, [])


def changes(upper: str, lowers: Sequence[str], place: str = "") -> Iterator[tuple[str, str, int]]:
    """Lists what an upper layer adds to, changes in and removes from the layers below it.

    Args:
        upper: The upper layer's directory.
        lowers: The layers below it, lowest first.
        place: What every path begins with, such as ``usr/``.

    Yields:
        ``(kind, path, size)``, in order of path: kind is ``added``, ``changed`` or ``removed``; the path has no
        leading slash, and a directory's ends in one; size in bytes. Of a directory that was added or removed as a
        whole, what is in it is listed where it was added, and not where it was removed.
    """
    yield from _below(upper, place, [*reversed(lowers)], opaque=False)


def _below(upper: str, place: str, lowers: list[str], *, opaque: bool) -> Iterator[tuple[str, str, int]]:
    """Compares one directory with what is seen of it in the layers below, the highest first."""
    with os.scandir(upper) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    hidden = _names(lowers) - found.keys() if opaque else set()
    for name in sorted(found.keys() | hidden):
        path, info = f"{place}{name}", found.get(name)
        before, below = _seen(name, lowers)
        if info is None or _is_whiteout(info):
            if before is not None:
                yield ("removed", path + "/" * stat.S_ISDIR(before.st_mode), 0)
        elif not stat.S_ISDIR(info.st_mode):
            yield ("added" if before is None else "changed", path, info.st_size)
        else:
            if before is None or not stat.S_ISDIR(before.st_mode):
                yield ("added" if before is None else "changed", path + "/", 0)
            elif before.st_mode != info.st_mode:
                yield ("changed", path + "/", 0)
            directory = f"{upper}/{name}"
            yield from _below(directory, path + "/", below, opaque=_is_opaque(directory))


def _seen(name: str, lowers: list[str]) -> tuple[os.stat_result | None, list[str]]:
    """Looks a name up as overlayfs does.

    Returns:
        What it is below, or None, and the directories that its contents come from, the highest first.
    """
    first: os.stat_result | None = None
    below: list[str] = []
    for lower in lowers:
        path = f"{lower}/{name}"
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            continue
        if _is_whiteout(info):
            break
        first = first or info
        if not stat.S_ISDIR(info.st_mode):
            break
        below.append(path)
        if _is_opaque(path):
            break
    return first, below if first is not None and stat.S_ISDIR(first.st_mode) else []


def _names(lowers: list[str]) -> set[str]:
    return {name for lower in lowers for name in os.listdir(lower)}


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
        raise
