"""A directory that appears whole under its name, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kibo.runtime.layers.store import exhausting_disk, flush_file_system
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.store.crash import point


@contextmanager
def building(into: Path, home: Path, purpose: str, *, flush: bool = True) -> Iterator[Path]:
    """Gives an empty directory to fill, which gets its name by one rename at the end of the block.

    A block that raises, or a process that dies in it, leaves nothing under the name; what it had made is removed at
    once, or by the next sweep of the state directory.

    Args:
        into: The name; nothing may be there. On the state directory's file system.
        home: The state directory.
        purpose: A word for the names of temporary things.
        flush: Whether to wait for the disk, so that what is there after a power cut is whole.

    Raises:
        HostDiskFull: There is no room. Retry after making some.
        FileExistsError: Something is there already.
    """
    if os.path.lexists(into):
        raise FileExistsError(f"{into} is there already")
    with exhausting_disk(home):
        entry = TemporaryEntry.create(home, purpose)
        try:
            made = entry.path / "made"
            made.mkdir(mode=0o755)
            yield made
            point(f"{purpose}.built")
            if flush:
                flush_file_system(made)
            point(f"{purpose}.flushed")
            os.rename(made, into)
            if flush:
                flush_directory(into.parent)
            point(f"{purpose}.renamed")
        finally:
            entry.remove()


def flush_directory(path: Path) -> None:
    """Waits until the names in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
