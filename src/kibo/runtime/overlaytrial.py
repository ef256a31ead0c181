"""Whether a file system can hold the writable side of an overlay: tried, because a mount alone succeeds too often.

An overlay on one without extended attributes, or on another overlay, can be mounted and written to; what fails is to
remove what a lower layer has. Source: overlayfs in the kernel's documentation, ovl_make_workdir() in its super.c.
"""

from __future__ import annotations

import os

from kibo.runtime import kernel


def make_parts(folder_fd: int) -> None:
    """Makes, in an empty folder, the two sides of an overlay, and something below to remove."""
    for name in ("l", "u", "w", "l/folder"):
        os.mkdir(name, 0o755, dir_fd=folder_fd)
    for name in ("l/file", "l/folder/file"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder_fd))


def try_upper(folder: str) -> None:
    """Mounts the overlay, removes a file and puts a new folder in an old one's place: what upper layers are for.

    Args:
        folder: What `make_parts` made, as this mount namespace reaches it.

    Raises:
        OSError: The file system cannot hold it.
    """
    context = kernel.fsopen("overlay")
    try:
        for key, part in (("lowerdir", "l"), ("upperdir", "u"), ("workdir", "w")):
            kernel.fsconfig_string(context, key, f"{folder}/{part}")
        kernel.fsconfig_flag(context, "userxattr")
        kernel.fsconfig_create(context)
        mount = kernel.fsmount(context)
    finally:
        os.close(context)
    try:
        os.unlink("file", dir_fd=mount)
        os.unlink("folder/file", dir_fd=mount)
        os.rmdir("folder", dir_fd=mount)
        os.mkdir("folder", dir_fd=mount)
    finally:
        os.close(mount)
