"""Bringing one file, or the names in one directory, to the disk."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Returns once a file's contents, or a directory's entries, are on the disk (fsync(2)).

    Raises:
        OSError: It is not there, cannot be read, or the disk failed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
