"""The file system that a box sees: an overlay of layers, put together in the warden and moved into the box.

The warden has every capability over its own namespaces and over those of the boxes below it. It therefore makes the
mounts itself, as detached mounts that have no path anywhere, steps into the box's mount namespace, attaches them and
pivots; the box's process does not take part and needs no right to mount. Sources: overlayfs in the kernel's
documentation, fsopen(2), pivot_root(2), mount_namespaces(7).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from kibo.runtime import doorways, kernel
from kibo.runtime.oldermounts import UPPERS, Features, overlay_by_path, proc_by_visit
from kibo.runtime.trees.removing import remove

if TYPE_CHECKING:
    from kibo.runtime.shareddirs import Part

#: Where the warden finds the device nodes and the system information that every box shares, read-only.
SHARED_DEV: Final = "/kibo/dev"
SHARED_SYS: Final = "/kibo/sys"
#: The host's /usr, shown with ids that mean something inside.
HOST_USR: Final = "/kibo/usr"
#: An empty directory, read-only: the root of processes that only wait to be forked.
BARE: Final = "/kibo/bare"
#: A layer that has an empty directory in which boxes find what they share, and nothing else.
SHARED_PLACE: Final = "/kibo/place"
#: Where something is mounted in every box, below its root.
MOUNTS: Final = ("dev", "proc", "sys", "usr")
#: Nodes of a box's /dev. Everything else of /dev is a link or an own file system.
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")

_SAFE: Final = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV

#: What the kernel can, as the warden found at its start.
features = Features()


@dataclass(slots=True, eq=False)
class Sealed:
    """A writable layer that nobody writes any more, for others to lie on.

    Attributes:
        path: Where its parts ``u`` and ``usr-u`` are, in the warden's namespace.
        mounted: Whether it is a mount of its own, in memory, that goes when its last holder does.
        holders: Roots that lie on it.
    """

    path: str
    mounted: bool
    holders: int = 0

    def hold(self) -> Self:
        """Counts one more holder."""
        self.holders += 1
        return self

    def release(self) -> None:
        """Counts one holder less. Mounts that were made of it live on without its path."""
        self.holders -= 1
        if not self.holders and self.mounted:
            kernel.umount2(self.path)
            os.rmdir(self.path)


@dataclass(slots=True)
class Root:
    """One box's file system before and while it is in use.

    Attributes:
        lowers: Paths of the environment's layers in the warden's namespace, lowest first.
        usr_lowers: Layers' ``usr`` directories and the host's, lowest first; empty when ``/usr`` is in the layers.
        disk_bytes: Size of the box's own writable layer, in bytes, where it lies in memory.
        disk_files: How many files, directories and links it takes there.
        writable_usr: Whether the box may change ``/usr``; only one that runs as root can.
        has_doorway: Whether programs in the box may call out to Kibo.
        deltas: Sealed writable layers, which lie above all of the environment's, lowest first. Held.
        upper_path: Where on disk the writable layer lies, in the warden's namespace; empty for one in memory.
        shared: What it has of a branch's shared directories, or None.
        upper_fd: The writable layer's directory, or -1 where there is none yet.
        root_fd: The detached mount, or -1 before `make` and after `attached`.
        listener: The socket of its doorway, until whoever listens there takes it, or -1.
        identity: What tells its root directory from every other: device and inode number.
        sealed: Whether the writable layer is the last of `deltas`, and the root empty.
        upper_at: Where it lies until then: on a kernel whose overlays want it in a place, or since it was sealed.
        furniture: What is still to be mounted below the root, on a kernel that cannot while it is detached, and where.
    """

    lowers: tuple[str, ...]
    usr_lowers: tuple[str, ...]
    disk_bytes: int
    disk_files: int
    writable_usr: bool = False
    has_doorway: bool = False
    deltas: tuple[Sealed, ...] = ()
    upper_path: str = ""
    shared: Part | None = None
    upper_fd: int = -1
    shm_fd: int = -1
    root_fd: int = -1
    listener: int = -1
    identity: tuple[int, int] = (0, 0)
    sealed: bool = False
    upper_at: str = ""
    furniture: list[tuple[int, str]] = field(default_factory=list)

    def make(self) -> None:
        """Makes the writable layer, the root and what goes below it, all detached. About 0.3 ms."""
        if self.upper_path:
            self.upper_fd = disk_upper(self.upper_path, writable_usr=self.writable_usr)
            self.shm_fd = self.new_upper()
        else:
            self.upper_fd = self.shm_fd = self.new_upper(writable_usr=self.writable_usr)
            if not features.detached_trees:
                self.upper_at = f"{UPPERS}/{self.upper_fd}"
                os.mkdir(self.upper_at)
                kernel.move_mount(self.upper_fd, self.upper_at)
        self._assemble()

    def new_upper(self, *, writable_usr: bool = False) -> int:
        """Makes a writable layer in memory, as large as this box's may be. Returns its descriptor."""
        return new_upper(self.disk_bytes, self.disk_files, writable_usr=writable_usr)

    def _assemble(self) -> None:
        self.root_fd = overlay(self._below(), self._upper())
        info = os.fstat(self.root_fd)
        self.identity = info.st_dev, info.st_ino
        self._furnish()

    def _upper(self) -> str:
        return f"{self.upper_path or self.upper_at or f'/proc/self/fd/{self.upper_fd}'}/"

    def _below(self) -> tuple[str, ...]:
        place = (SHARED_PLACE,) if self.shared else ()
        return (*self.lowers, *place, *(f"{delta.path}/u" for delta in self.deltas))

    def _usr_below(self) -> tuple[str, ...]:
        if not self.writable_usr:
            return self.usr_lowers
        return (*self.usr_lowers, *(f"{delta.path}/usr-u" for delta in self.deltas))

    def _furnish(self) -> None:
        """Mounts what goes below the root while it is detached, so that one move takes all of it in (Linux 6.15)."""
        clone, here = kernel.OPEN_TREE_CLONE, kernel.AT_FDCWD
        self._attach(kernel.open_tree(here, SHARED_DEV, clone | kernel.AT_RECURSIVE), "dev")
        self._attach(kernel.open_tree(self.shm_fd, "shm", clone), "dev/shm")
        self._attach(pseudo_terminals(), "dev/pts")
        self._attach(kernel.open_tree(here, SHARED_SYS, clone), "sys")
        if self.usr_lowers:
            self._attach(self._usr(), "usr")
        if self.has_doorway:
            doorway, self.listener = doorways.make_doorway()
            self._attach(doorway, f"dev/{doorways.PLACE}")
        for fd, place in self.shared.mounts() if self.shared else ():
            self._attach(fd, place)

    def _attach(self, fd: int, place: str) -> None:
        if not features.detached_trees:
            self.furniture.append((fd, place))
            return
        try:
            kernel.move_mount(fd, place, self.root_fd)
        finally:
            os.close(fd)

    def _usr(self) -> int:
        if self.writable_usr:
            return overlay(self._usr_below(), f"{self._upper()}usr-")
        return kernel.open_tree(kernel.AT_FDCWD, _shared_usr(self._usr_below()), kernel.OPEN_TREE_CLONE)

    def trees(self, upper: str, own_from: int) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """Names the overlays of the root: where each is mounted, its own layers and those below, lowest first.

        Args:
            upper: The writable layers' file system as the caller reaches it.
            own_from: The first of the sealed layers that count as the box's own.
        """
        tops = [delta.path for delta in self.deltas] + ([] if self.sealed else [upper])
        own = len(tops) - own_from
        found = []
        for place, name, below in (("", "u", self.lowers), ("usr/", "usr-u", self.usr_lowers)):
            if not place or self.writable_usr:
                layers = (*below, *(f"{top}/{name}" for top in tops))
                found.append((place, layers[len(layers) - own :], layers[: len(layers) - own]))
        return found

    def attached(self) -> None:
        """Lets go of the root's descriptor: it now lives as long as the box's namespace."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1
        for fd, _ in self.furniture:
            os.close(fd)
        self.furniture.clear()

    def seal(self, path: str) -> None:
        """Puts the writable layer where others can lie on it, and takes an empty root in place of it.

        Nothing may write to the old root any more: its process is moved to the new one next.

        Args:
            path: For a layer in memory: where to mount it.
        """
        if self.upper_path:
            layer = Sealed(self.upper_path, mounted=False)
        else:
            os.mkdir(path, 0o755)
            kernel.move_mount(self.upper_fd, path)
            self._leave_place()
            layer = Sealed(path, mounted=True)
        self.deltas = (*self.deltas, layer.hold())
        self.sealed = True
        if self.shared is not None:
            self.shared.discount()
        self.root_fd = kernel.open_tree(kernel.AT_FDCWD, BARE, kernel.OPEN_TREE_CLONE)

    def unseal(self, upper_path: str = "") -> None:
        """Makes a writable root again, over what was sealed. Its process is moved to it next."""
        self.sealed = False
        if self._is_last_holder():
            self._write_on()
            return
        self._let_go()
        self.upper_path = upper_path
        self.make()

    def _is_last_holder(self) -> bool:
        """Whether nobody lies on what was sealed last, in memory: then nobody misses it, and it need not stay."""
        return not self.upper_path and self.upper_fd >= 0 and self.deltas[-1].holders == 1

    def _write_on(self) -> None:
        """Takes the layer that was sealed last as the writable one again, so that layers do not pile up."""
        self.attached()
        *deltas, layer = self.deltas
        self.deltas, self.upper_at = tuple(deltas), layer.path
        for name in ("w", *(("usr-w",) if self.writable_usr else ())):
            # Left by `volatile`: after a crash of the host the layer might not be whole. There was none.
            os.unlink(f"{name}/work/incompat/volatile/dirty", dir_fd=self.upper_fd)
            os.rmdir(f"{name}/work/incompat/volatile", dir_fd=self.upper_fd)
        self._assemble()

    def child(
        self,
        disk_bytes: int = 0,
        disk_files: int = 0,
        lowers: tuple[str, ...] = (),
        usr_lowers: tuple[str, ...] = (),
        deltas: tuple[Sealed, ...] | None = None,
        upper_path: str = "",
        shared: Part | None = None,
    ) -> Root:
        """Describes the root of a fork: sealed layers above those given, and an empty writable one on top.

        What is not given, or 0, is as in this one; but for shared directories, which are those given alone.
        """
        return Root(
            lowers or self.lowers,
            usr_lowers or self.usr_lowers,
            disk_bytes or self.disk_bytes,
            disk_files or self.disk_files,
            self.writable_usr,
            self.has_doorway,
            tuple(delta.hold() for delta in (self.deltas if deltas is None else deltas)),
            upper_path,
            shared,
        )

    def is_plain_child(self, parent: Root) -> bool:
        """Tells whether a root is what a fork of another has that asks for nothing else."""
        layers = (self.lowers, self.usr_lowers, self.deltas)
        return layers == (parent.lowers, parent.usr_lowers, parent.deltas) and self.shared is None

    def name_upper(self, path: str) -> None:
        """Gives the writable layer on disk another path. An overlay knows its layers by their inodes, once mounted."""
        if self.upper_fd >= 0:
            os.rename(self.upper_path, path)
        self.upper_path = path

    def remove_upper(self) -> None:
        """Removes the writable layer on disk, if there is one, of a root that nobody has used and that is closed."""
        if self.upper_path:
            place, name = os.path.split(self.upper_path)
            fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove(fd, os.fsencode(name))
            finally:
                os.close(fd)

    def _leave_place(self) -> None:
        if self.upper_at:
            os.rmdir(self.upper_at)
            self.upper_at = ""

    def _let_go(self) -> None:
        self.attached()
        if self.listener >= 0:
            os.close(self.listener)
            self.listener = -1
        if self.shared is not None:
            self.shared.discount()
        if self.upper_at:
            kernel.umount2(self.upper_at)
            self._leave_place()
        if self.shm_fd not in (-1, self.upper_fd):
            os.close(self.shm_fd)
        if self.upper_fd >= 0:
            os.close(self.upper_fd)
        self.upper_fd = self.shm_fd = -1

    def close(self) -> None:
        """Lets go of everything; the mounts end with the last process that sees them."""
        self._let_go()
        for delta in self.deltas:
            delta.release()
        self.deltas = ()
        if self.shared is not None:
            self.shared.release()
            self.shared = None


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


#: What is in a writable layer before a box has written anything: its root, and the directories below it.
_OWN_INODES: Final = 16


def new_upper(disk_bytes: int, disk_files: int, *, writable_usr: bool = False) -> int:
    """Makes an empty writable layer in memory, bounded in bytes and files. Returns its descriptor. About 40 us."""
    context = kernel.fsopen("tmpfs")
    try:
        kernel.fsconfig_string(context, "size", str(disk_bytes))
        kernel.fsconfig_string(context, "nr_inodes", str(disk_files + _OWN_INODES))
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


def disk_upper(path: str, *, writable_usr: bool = False) -> int:
    """Makes an empty writable layer on disk, at a path of the warden's. Returns its directory's descriptor."""
    os.mkdir(path, 0o755)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in ("u", "w", *(("usr-u", "usr-w") if writable_usr else ())):
        os.mkdir(name, 0o755, dir_fd=fd)
    return fd


def overlay(lowers: Sequence[str], upper: str = "") -> int:
    """Makes a detached overlay mount.

    Args:
        lowers: Directories, lowest first; at least two where there is no writable layer.
        upper: What to put before ``u`` and ``w`` for the paths of the writable layer, or empty for a read-only mount.

    Returns:
        The mount's descriptor.
    """
    take_down()
    attributes = _SAFE | (0 if upper else kernel.MOUNT_ATTR_RDONLY)
    if not features.layers_one_by_one:
        options = f",upperdir={upper}u,workdir={upper}w,volatile" if upper else ""
        return overlay_by_path(lowers, options, attributes)
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
        return kernel.fsmount(context, attributes)
    finally:
        os.close(context)


def proc(pid_namespace_fd: int, own_namespace_fd: int) -> int:
    """Makes a detached /proc of another process's PID namespace. Returns its descriptor."""
    if not features.proc_from_outside:
        return proc_by_visit(pid_namespace_fd, own_namespace_fd, _SAFE | kernel.MOUNT_ATTR_NOEXEC)
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
    for name in ("shm", "pts", doorways.PLACE):
        os.mkdir(f"{SHARED_DEV}/{name}", 0o755)
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        os.symlink(target, f"{SHARED_DEV}/{name}")
    kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_RDONLY)
    os.close(tree)


class StillWrittenError(Exception):
    """A process holds a file of a layer open for writing that is to be sealed, or one that is deleted."""


#: Roots that were sealed and left, by descriptor: what the kernel remembers of their files is still to be taken down.
_LEFT: list[int] = []


def stop_writes(pidfd: int, own_namespace_fd: int, root: Root, *, several: bool) -> None:
    """Makes a box's root read-only for good, whatever of it is still open.

    The kernel refuses where a file is open for writing: what is sealed must not change, and a descriptor that the box
    kept would do so behind all who lie on it. Takes the same time for one file and for a hundred thousand, but where
    there may be ``several`` mounts of the root: then the file system itself is made read-only, which forgets each file
    that it has seen, and refuses where one is open that was deleted, too.

    Args:
        pidfd: The box's process.
        own_namespace_fd: The caller's mount namespace, to which it returns in every case.
        root: What the box's root is.
        several: Whether the box may have made mounts of it, in namespaces of its own.

    Raises:
        StillWrittenError: One is; nothing has changed.
    """
    kernel.setns(pidfd, kernel.CLONE_NEWNS)
    stopped: list[int] = []
    try:
        shared = root.shared.places if root.shared else ()
        for place in ("/", *(("/usr",) if root.writable_usr else ()), *shared):
            if several:
                stop_writes_anywhere(place)
            else:
                stopped.append(_stop_writes_here(place))
    except OSError as error:
        for mount in stopped:
            kernel.mount_setattr(mount, clear=kernel.MOUNT_ATTR_RDONLY)
            os.close(mount)
        if error.errno == errno.EBUSY:
            raise StillWrittenError from None
        raise
    finally:
        kernel.setns(own_namespace_fd, kernel.CLONE_NEWNS)
    _LEFT.extend(stopped)


def _stop_writes_here(place: str) -> int:
    mount = kernel.open_tree(kernel.AT_FDCWD, place, 0)
    try:
        kernel.mount_setattr(mount, set_=kernel.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(mount)
        raise
    return mount


def stop_writes_anywhere(place: str) -> None:
    """Makes the file system that is mounted at a place read-only, for all that have mounts of it.

    Raises:
        OSError: ``EBUSY``: a file of it is open for writing, or deleted and open.
    """
    context = kernel.fspick(place)
    try:
        kernel.fsconfig_flag(context, "ro")
        kernel.fsconfig_reconfigure(context)
    finally:
        os.close(context)


def take_down() -> None:
    """Takes down the roots that were sealed and left. About 2 microseconds for each file that was used in one.

    Nothing is mounted over a layer before: the kernel wants it to be the writable one of no other mount.
    """
    while _LEFT:
        os.close(_LEFT.pop())


def make_bare() -> None:
    """Makes, once in the warden, the empty root of processes that wait to be forked."""
    context = kernel.fsopen("tmpfs")
    kernel.fsconfig_string(context, "mode", "0555")
    kernel.fsconfig_create(context)
    fd = kernel.fsmount(context, _SAFE | kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOEXEC)
    os.close(context)
    os.mkdir(BARE)
    kernel.move_mount(fd, BARE)
    os.close(fd)


def move_in(
    pidfd: int, own_namespace_fd: int, root: Root, proc_fd: int = -1, *, from_bare: bool = False
) -> None:
    """Makes ``root`` the root of a process, with its own /proc below it.

    The caller must be alone in its process (one thread) and have CAP_SYS_ADMIN over the process's mount namespace.
    Every process in that namespace whose root is the old root, the waiting box included, is moved to the new one.

    Args:
        pidfd: The process.
        own_namespace_fd: The caller's mount namespace, to which it returns in every case.
        root: What `Root.make` or `Root.seal` prepared.
        proc_fd: A detached /proc of the process's PID namespace, or -1 for none.
        from_bare: Whether its root is the empty one. That stays, out of sight below its /proc: nothing is in it, and
            to unmount it would be to wait until every processor has seen it go, 0.1 ms.
    """
    kernel.setns(pidfd, kernel.CLONE_NEWNS)
    try:
        # Joining put us at the namespace's root. The new root goes on top of it and then changes places with it.
        kernel.move_mount(root.root_fd, "/")
        os.fchdir(root.root_fd)
        kernel.pivot_root(".", "proc" if from_bare else ".")
        if proc_fd >= 0:
            kernel.move_mount(proc_fd, "proc", root.root_fd)
        for fd, place in root.furniture:
            kernel.move_mount(fd, place, root.root_fd)
        if not from_bare:
            # The old root now lies on top of the new one, where no path of a process below leads.
            kernel.umount2(".", kernel.MNT_DETACH)
    finally:
        kernel.setns(own_namespace_fd, kernel.CLONE_NEWNS)
