"""What the warden sees: not the host, but a file system of its own that holds only what boxes are made of."""

from __future__ import annotations

import os
from typing import Final

from kibo.runtime import kernel, roots, shareddirs

#: Where the warden finds the writable layers that lie on disk.
DELTAS: Final = "/kibo/deltas"


def build_world(layers_fd: int, layers_path: str, usr_fd: int, deltas_fd: int, deltas_path: str) -> None:
    """Leaves the host's file system for one that holds only what boxes are made of. Runs once, before any box.

    Args:
        layers_fd: A detached mount of the layers, or -1 where this process may reach them by path.
        layers_path: That path.
        usr_fd: A detached mount of the host's /usr with mapped ids, or -1.
        deltas_fd: A detached mount of where boxes' writable layers lie on disk, or -1.
        deltas_path: That path.
    """
    # Nothing that happens here may travel to the host.
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    world = kernel.fsopen("tmpfs")
    kernel.fsconfig_string(world, "mode", "0755")
    kernel.fsconfig_create(world)
    root = kernel.fsmount(world, 0)
    os.close(world)
    for path in (
        "kibo",
        "kibo/layers",
        "kibo/usr",
        "kibo/dev",
        "kibo/sys",
        "kibo/states",
        "kibo/deltas",
        "kibo/scratch",
        "kibo/uppers",
        "proc",
    ):
        os.mkdir(path, 0o755, dir_fd=root)
    if layers_fd < 0:
        layers_fd = kernel.open_tree(kernel.AT_FDCWD, layers_path, kernel.OPEN_TREE_CLONE)
    if deltas_fd < 0:
        deltas_fd = kernel.open_tree(kernel.AT_FDCWD, deltas_path, kernel.OPEN_TREE_CLONE)
    kernel.mount_setattr(deltas_fd, set_=kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV)
    if usr_fd < 0:
        usr_fd = kernel.open_tree(kernel.AT_FDCWD, "/usr", kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
    kernel.mount_setattr(
        layers_fd, set_=kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
    )
    kernel.mount_setattr(
        usr_fd,
        set_=kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV,
        recursive=True,
    )
    clone, here = kernel.OPEN_TREE_CLONE, kernel.AT_FDCWD
    devices = {name: kernel.open_tree(here, f"/dev/{name}", clone) for name in roots.DEVICES}
    proc, sys_fd = _own_proc(), _own_sysfs()
    # The new world goes on top of the old one and changes places with it, as a box's root does.
    kernel.move_mount(root, "/")
    os.fchdir(root)
    kernel.pivot_root(".", ".")
    # The old root's /proc must stay in sight until the new one is attached: the kernel asks for one fully visible.
    kernel.move_mount(proc, "proc", root)
    if sys_fd >= 0:
        kernel.move_mount(sys_fd, "kibo/sys", root)
    kernel.move_mount(layers_fd, "kibo/layers", root)
    kernel.move_mount(usr_fd, "kibo/usr", root)
    kernel.move_mount(deltas_fd, "kibo/deltas", root)
    kernel.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")
    roots.make_devices(devices)
    roots.make_bare()
    shareddirs.make_place()
    for fd in (root, layers_fd, usr_fd, deltas_fd, proc, sys_fd, *devices.values()):
        if fd >= 0:
            os.close(fd)


def _own_proc() -> int:
    context = kernel.fsopen("proc")
    kernel.fsconfig_create(context)
    fd = kernel.fsmount(
        context, kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
    )
    os.close(context)
    return fd


def _own_sysfs() -> int:
    """Makes /sys of the warden's own, empty network; -1 where the host hides parts of it, and none may see more."""
    context = kernel.fsopen("sysfs")
    try:
        kernel.fsconfig_create(context)
        safe = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
        return kernel.fsmount(context, safe | kernel.MOUNT_ATTR_RDONLY)
    except PermissionError:
        return -1
    finally:
        os.close(context)
