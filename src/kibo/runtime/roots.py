"""The file system that a box sees: an overlay of layers, put together in the warden and moved into the box.

The warden has every capability over its own namespaces and over those of the boxes below it. It therefore makes the
mounts itself, as detached mounts that have no path anywhere, steps into the box's mount namespace, attaches them and
pivots; the box's process does not take part and needs no right to mount. Sources: overlayfs in the kernel's
documentation, fsopen(2), pivot_root(2), mount_namespaces(7).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kibo.runtime import kernel

#: Where the warden finds the device nodes and the system information that every box shares, read-only.
SHARED_DEV: Final = "/kibo/dev"
SHARED_SYS: Final = "/kibo/sys"
#: The host's /usr, shown with ids that mean something inside.
HOST_USR: Final = "/kibo/usr"
#: Nodes of a box's /dev. Everything else of /dev is a link or an own file system.
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")

_SAFE: Final = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV


@dataclass(slots=True)
class Root:
    """One box's file system before and while it is in use.

    Attributes:
        lowers: Paths of the layers in the warden's namespace, lowest first.
        usr_lowers: Layers' ``usr`` directories and the host's, lowest first; empty when ``/usr`` is in the layers.
        disk_bytes: Size of the box's own writable layer, in bytes. It lies in memory.
        upper_fd: The writable layer's file system (directories ``u`` and ``w``), or -1 where there is none.
        usr_fd: A detached mount of ``/usr`` that boxes of one state share, or -1.
    """

    lowers: tuple[str, ...]
    usr_lowers: tuple[str, ...]
    disk_bytes: int
    upper_fd: int = -1
    usr_fd: int = -1
    sealed_path: str = field(default="")

    def close(self) -> None:
        """Lets go of the descriptors; the mounts end with the last process that sees them."""
        for name in ("upper_fd", "usr_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def new_upper(disk_bytes: int) -> int:
    """Makes an empty writable layer in memory, bounded in size. Returns its descriptor. About 40 microseconds."""
    context = kernel.fsopen("tmpfs")
    try:
        kernel.fsconfig_string(context, "size", str(disk_bytes))
        kernel.fsconfig_string(context, "mode", "0755")
        kernel.fsconfig_create(context)
        fd = kernel.fsmount(context, _SAFE)
    finally:
        os.close(context)
    os.mkdir("u", 0o755, dir_fd=fd)
    os.mkdir("w", 0o755, dir_fd=fd)
    return fd


def overlay(lowers: Sequence[str], upper_fd: int = -1) -> int:
    """Makes a detached overlay mount.

    Args:
        lowers: Directories, lowest first. With one directory and no upper a plain copy of its mount is made.
        upper_fd: A writable layer from `new_upper`, or -1 for a read-only mount.

    Returns:
        The mount's descriptor.
    """
    context = kernel.fsopen("overlay")
    try:
        # One string and not one call a layer: the kernel takes both, and this is one call of it.
        kernel.fsconfig_string(context, "lowerdir", ":".join(reversed(lowers)))
        if upper_fd >= 0:
            kernel.fsconfig_string(context, "upperdir", f"/proc/self/fd/{upper_fd}/u")
            kernel.fsconfig_string(context, "workdir", f"/proc/self/fd/{upper_fd}/w")
            # The layer ends with the box: nothing needs to reach a disk, so nothing is synchronised.
            kernel.fsconfig_flag(context, "volatile")
        kernel.fsconfig_flag(context, "userxattr")
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, _SAFE | (0 if upper_fd >= 0 else kernel.MOUNT_ATTR_RDONLY))
    finally:
        os.close(context)


def proc(pid_namespace_fd: int) -> int:
    """Makes a detached /proc of another process's PID namespace. Returns its descriptor. Linux 6.17 and later."""
    context = kernel.fsopen("proc")
    try:
        kernel.fsconfig_fd(context, "pidns", pid_namespace_fd)
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, _SAFE | kernel.MOUNT_ATTR_NOEXEC)
    finally:
        os.close(context)


def small_tmpfs(size_bytes: int, mode: str) -> int:
    """Makes a detached file system in memory, for /dev/shm. Returns its descriptor."""
    context = kernel.fsopen("tmpfs")
    try:
        kernel.fsconfig_string(context, "size", str(size_bytes))
        kernel.fsconfig_string(context, "mode", mode)
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, _SAFE)
    finally:
        os.close(context)


def pseudo_terminals() -> int:
    """Makes a detached /dev/pts of its own, so that no box sees another's terminals. Returns its descriptor."""
    context = kernel.fsopen("devpts")
    try:
        kernel.fsconfig_string(context, "mode", "0620")
        kernel.fsconfig_string(context, "ptmxmode", "0666")
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC)
    finally:
        os.close(context)


def prepare_shared() -> None:
    """Builds, once in the warden's mount namespace, what every box's root takes parts from. Ends private to it."""
    # Nothing that happens here may travel to the host's mount table.
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def move_in(mount_namespace_fd: int, own_namespace_fd: int, root_fd: int, parts: Sequence[tuple[int, str]]) -> None:
    """Makes ``root_fd`` the root of another mount namespace and attaches further mounts below it.

    The caller must be alone in its process (one thread) and have CAP_SYS_ADMIN over both namespaces. Every process
    in the target namespace whose root is the old root, the waiting box included, is moved to the new one.

    Args:
        mount_namespace_fd: The box's mount namespace (or its pidfd).
        own_namespace_fd: The caller's mount namespace, to which it returns in every case.
        root_fd: A detached mount.
        parts: Detached mounts and where each goes, as paths in the new root, in order.
    """
    kernel.setns(mount_namespace_fd, kernel.CLONE_NEWNS)
    try:
        # Joining put us at the namespace's root. The new root goes on top of it and then changes places with it.
        kernel.move_mount(root_fd, "/")
        os.fchdir(root_fd)
        kernel.pivot_root(".", ".")
        # The old root now lies on top of the new one, at the place where we stand.
        kernel.umount2(".", kernel.MNT_DETACH)
        for fd, path in parts:
            kernel.move_mount(fd, path, root_fd)
    finally:
        kernel.setns(own_namespace_fd, kernel.CLONE_NEWNS)
