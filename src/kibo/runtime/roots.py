"""The file system that a box sees: an overlay of layers, put together in the warden and moved into the box.

The warden has every capability over its own namespaces and over those of the boxes below it. It therefore makes the
mounts itself, as detached mounts that have no path anywhere, steps into the box's mount namespace, attaches them and
pivots; the box's process does not take part and needs no right to mount. Sources: overlayfs in the kernel's
documentation, fsopen(2), pivot_root(2), mount_namespaces(7).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
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
        lowers: Paths of the environment's layers in the warden's namespace, lowest first.
        usr_lowers: Layers' ``usr`` directories and the host's, lowest first; empty when ``/usr`` is in the layers.
        disk_bytes: Size of the box's own writable layer, in bytes. It lies in memory.
        writable_usr: Whether the box may change ``/usr``; only one that runs as root can.
        upper_fd: The writable layer's file system, or -1 where there is none yet.
        root_fd: The detached mount, or -1 before `make` and after `attached`.
        deltas: Paths of sealed writable layers, which lie above all of the environment's, lowest first.
        sealed_at: Where the writable layer lies for others to read once it is sealed.
    """

    lowers: tuple[str, ...]
    usr_lowers: tuple[str, ...]
    disk_bytes: int
    writable_usr: bool = False
    deltas: tuple[str, ...] = ()
    usr_deltas: tuple[str, ...] = ()
    upper_fd: int = -1
    root_fd: int = -1
    sealed_at: str = ""

    def make(self) -> None:
        """Makes the writable layer, the root and what goes below it, all detached. About 0.3 ms."""
        self.upper_fd = new_upper(self.disk_bytes, writable_usr=self.writable_usr)
        self.root_fd = overlay((*self.lowers, *self.deltas), f"/proc/self/fd/{self.upper_fd}/")
        self._furnish()

    def _furnish(self) -> None:
        """Mounts what goes below the root while it is detached, so that one move takes all of it in (Linux 6.15)."""
        clone, here = kernel.OPEN_TREE_CLONE, kernel.AT_FDCWD
        self._attach(kernel.open_tree(here, SHARED_DEV, clone | kernel.AT_RECURSIVE), "dev")
        self._attach(kernel.open_tree(self.upper_fd, "shm", clone), "dev/shm")
        self._attach(pseudo_terminals(), "dev/pts")
        self._attach(kernel.open_tree(here, SHARED_SYS, clone), "sys")
        if self.usr_lowers:
            self._attach(self._usr(), "usr")

    def _attach(self, fd: int, place: str) -> None:
        try:
            kernel.move_mount(fd, place, self.root_fd)
        finally:
            os.close(fd)

    def _usr(self) -> int:
        lowers = (*self.usr_lowers, *self.usr_deltas)
        if self.writable_usr:
            return overlay(lowers, "" if self.sealed_at else f"/proc/self/fd/{self.upper_fd}/usr-")
        return kernel.open_tree(kernel.AT_FDCWD, _shared_usr(lowers), kernel.OPEN_TREE_CLONE)

    def trees(self, upper: str) -> list[tuple[str, str, tuple[str, ...]]]:
        """Names the overlays of which the root consists: where each is mounted, its writable layer, those below.

        Args:
            upper: The writable layers' file system as the caller reaches it.
        """
        found = [("", f"{upper}/u", (*self.lowers, *self.deltas))]
        if self.writable_usr:
            found.append(("usr/", f"{upper}/usr-u", (*self.usr_lowers, *self.usr_deltas)))
        return found

    def attached(self) -> None:
        """Lets go of the root's descriptor: it now lives as long as the box's namespace."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1

    def seal(self, path: str) -> None:
        """Puts the writable layer where others can use it as a lower one, and makes a read-only root over it.

        Nothing may write to the old root any more: its process is moved to the new one next.
        """
        os.mkdir(path, 0o755)
        kernel.move_mount(self.upper_fd, path)
        self.sealed_at = path
        self.deltas = (*self.deltas, f"{path}/u")
        if self.writable_usr:
            self.usr_deltas = (*self.usr_deltas, f"{path}/usr-u")
        self.root_fd = overlay((*self.lowers, *self.deltas))
        self._furnish()

    def child(self, disk_bytes: int, lowers: tuple[str, ...], usr_lowers: tuple[str, ...]) -> Root:
        """Describes the root of a fork: the sealed layers above those given, and an empty writable one on top."""
        return Root(
            lowers or self.lowers,
            usr_lowers or self.usr_lowers,
            disk_bytes,
            self.writable_usr,
            self.deltas,
            self.usr_deltas,
        )

    def close(self) -> None:
        """Lets go of everything; the mounts end with the last process that sees them."""
        self.attached()
        if self.sealed_at:
            kernel.umount2(self.sealed_at)
            os.rmdir(self.sealed_at)
        if self.upper_fd >= 0:
            os.close(self.upper_fd)
            self.upper_fd = -1


#: Read-only mounts of /usr by what they consist of. Few, and shared by every box of the session.
_USR_MOUNTS: dict[tuple[str, ...], str] = {}


def _shared_usr(lowers: tuple[str, ...]) -> str:
    if len(lowers) == 1:
        return lowers[0]
    if lowers not in _USR_MOUNTS:
        path = f"/kibo/states/usr-{len(_USR_MOUNTS)}"
        os.mkdir(path, 0o755)
        fd = overlay(lowers)
        try:
            kernel.move_mount(fd, path)
        finally:
            os.close(fd)
        _USR_MOUNTS[lowers] = path
    return _USR_MOUNTS[lowers]


def new_upper(disk_bytes: int, *, writable_usr: bool = False) -> int:
    """Makes an empty writable layer in memory, bounded in size. Returns its descriptor. About 40 microseconds."""
    context = kernel.fsopen("tmpfs")
    try:
        kernel.fsconfig_string(context, "size", str(disk_bytes))
        kernel.fsconfig_string(context, "mode", "0755")
        kernel.fsconfig_create(context)
        fd = kernel.fsmount(context, _SAFE)
    finally:
        os.close(context)
    for name in ("u", "w", *(("usr-u", "usr-w") if writable_usr else ())):
        os.mkdir(name, 0o755, dir_fd=fd)
    # Shared memory lies in the same file system, so that it counts as the box's own, and no second one is made.
    os.mkdir("shm", dir_fd=fd)
    os.chmod("shm", 0o1777, dir_fd=fd)
    return fd


def overlay(lowers: Sequence[str], upper: str = "") -> int:
    """Makes a detached overlay mount.

    Args:
        lowers: Directories, lowest first; at least two where there is no writable layer.
        upper: What to put before ``u`` and ``w`` for the paths of the writable layer, or empty for a read-only mount.

    Returns:
        The mount's descriptor.
    """
    context = kernel.fsopen("overlay")
    try:
        # One call a layer, the highest first: one string of all may have 255 bytes at most.
        for lower in reversed(lowers):
            kernel.fsconfig_string(context, "lowerdir+", lower)
        if upper:
            kernel.fsconfig_string(context, "upperdir", f"{upper}u")
            kernel.fsconfig_string(context, "workdir", f"{upper}w")
            # The layer ends with the box: nothing needs to reach a disk, so nothing is synchronised.
            kernel.fsconfig_flag(context, "volatile")
        kernel.fsconfig_flag(context, "userxattr")
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, _SAFE | (0 if upper else kernel.MOUNT_ATTR_RDONLY))
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


def make_devices(nodes: dict[str, int]) -> None:
    """Builds, once in the warden, the /dev that every box gets a copy of. Its directory is read-only.

    Args:
        nodes: Detached mounts of the host's device files: a user namespace cannot make device files of its own.
    """
    context = kernel.fsopen("tmpfs")
    kernel.fsconfig_string(context, "mode", "0755")
    kernel.fsconfig_create(context)
    tree = kernel.fsmount(context, kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC)
    os.close(context)
    kernel.move_mount(tree, SHARED_DEV)
    for name, node in nodes.items():
        os.close(os.open(f"{SHARED_DEV}/{name}", os.O_CREAT | os.O_CLOEXEC))
        kernel.move_mount(node, f"{SHARED_DEV}/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"{SHARED_DEV}/{name}", 0o755)
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        os.symlink(target, f"{SHARED_DEV}/{name}")
    kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_RDONLY)
    os.close(tree)


def move_in(pidfd: int, own_namespace_fd: int, root: Root, proc_fd: int) -> None:
    """Makes ``root`` the root of a process, with its own /proc below it.

    The caller must be alone in its process (one thread) and have CAP_SYS_ADMIN over the process's mount namespace.
    Every process in that namespace whose root is the old root, the waiting box included, is moved to the new one.

    Args:
        pidfd: The process.
        own_namespace_fd: The caller's mount namespace, to which it returns in every case.
        root: What `Root.make` or `Root.seal` prepared.
        proc_fd: A detached /proc of the process's PID namespace.
    """
    kernel.setns(pidfd, kernel.CLONE_NEWNS)
    try:
        # Joining put us at the namespace's root. The new root goes on top of it and then changes places with it.
        kernel.move_mount(root.root_fd, "/")
        os.fchdir(root.root_fd)
        kernel.pivot_root(".", ".")
        kernel.move_mount(proc_fd, "proc", root.root_fd)
        # The old root now lies on top of the new one, where no path of a process below leads.
        kernel.umount2(".", kernel.MNT_DETACH)
    finally:
        kernel.setns(own_namespace_fd, kernel.CLONE_NEWNS)
