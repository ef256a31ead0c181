"""Which of the mount calls that boxes use this kernel has, and how the same is had without them (Linux 6.6 to 6.16).

Tried, not read from a version: distributions carry changes back. Decision 0009 says what each way costs, and why there
is none below 6.6.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Final

from kibo.runtime import kernel

#: Where the warden mounts, for a moment, what older kernels cannot make without a place.
SCRATCH: Final = "/kibo/scratch"
#: Where writable layers lie whose overlays need them to have a place.
UPPERS: Final = "/kibo/uppers"


@dataclass(frozen=True, slots=True)
class Features:
    """What the kernel can.

    Attributes:
        proc_from_outside: Make a /proc of another PID namespace (Linux 6.17).
        detached_trees: Attach to a detached mount, and lay an overlay on one (Linux 6.15).
        layers_one_by_one: Name an overlay's layers one a call, so that their number is not bounded (Linux 6.7).
    """

    proc_from_outside: bool = True
    detached_trees: bool = True
    layers_one_by_one: bool = True

    def missing(self) -> list[str]:
        """Names what there is not."""
        return [field.name for field in fields(self) if not getattr(self, field.name)]


def try_features(without: Collection[str] = ()) -> Features:
    """Tries each, in a process that may mount. Some 0.2 ms.

    Args:
        without: Names of those to do without though they are there: the tests' way to run as on an older kernel.
    """
    trials: dict[str, Callable[[], None]] = {
        "proc_from_outside": _try_proc,
        "detached_trees": _try_detached,
        "layers_one_by_one": _try_layers,
    }
    return Features(**{name: name not in without and _works(trial) for name, trial in trials.items()})


def overlay_by_path(lowers: Sequence[str], options: str, attributes: int, scratch: str = SCRATCH) -> int:
    """Makes a detached overlay by way of mount(2), whose options may have 4,095 bytes; each layer takes some 17.

    Args:
        lowers: Directories, lowest first.
        options: Further options, each with a comma before it.
        attributes: The mount's, as fsmount(2) takes them.
        scratch: A directory to mount at for a moment.

    Returns:
        The mount's descriptor.
    """
    places = [os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for lower in reversed(lowers)]
    try:
        layers = ":".join(f"/proc/self/fd/{fd}" for fd in places)
        kernel.mount("overlay", scratch, "overlay", 0, f"userxattr,lowerdir={layers}{options}")
    finally:
        for fd in places:
            os.close(fd)
    try:
        tree = kernel.open_tree(kernel.AT_FDCWD, scratch, kernel.OPEN_TREE_CLONE)
    finally:
        kernel.umount2(scratch)
    kernel.mount_setattr(tree, set_=attributes)
    return tree


def proc_by_visit(pid_namespace_fd: int, own_namespace_fd: int, attributes: int) -> int:
    """Makes a detached /proc of another PID namespace: a child that is born there makes it. Some 0.6 ms.

    The child shares our descriptors, so that what it opens is ours. It runs no code of the box's, and the box, which
    has no right over our user namespace, can do no more to it than end it.
    """
    place = os.open("/", os.O_PATH | os.O_CLOEXEC)
    kernel.setns(pid_namespace_fd, kernel.CLONE_NEWPID)
    try:
        pid = kernel.clone(kernel.CLONE_FILES)
        if pid == 0:
            _visit(place, attributes)
    finally:
        kernel.setns(own_namespace_fd, kernel.CLONE_NEWPID)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        os.close(place)
        number = max(code, 1)
        raise OSError(number, f"proc: {os.strerror(number)}")
    return place


def _visit(place: int, attributes: int) -> None:
    """Puts a /proc of the namespace that this child is in at a descriptor. Never returns."""
    number = 1
    try:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        fd = _new("proc", attributes)
        os.dup2(fd, place, False)
        os.close(fd)
        number = 0
    except OSError as error:
        number = error.errno or 1
    finally:
        os._exit(number)


def _works(trial: Callable[[], None]) -> bool:
    try:
        trial()
    except OSError:
        return False  # this is the question
    return True


def _try_proc() -> None:
    namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    context = kernel.fsopen("proc")
    try:
        kernel.fsconfig_fd(context, "pidns", namespace)
    finally:
        os.close(context)
        os.close(namespace)


def _try_detached() -> None:
    outer, inner = _new("tmpfs"), _new("tmpfs")
    try:
        os.mkdir("place", dir_fd=outer)
        kernel.move_mount(inner, "place", outer)
    finally:
        os.close(outer)
        os.close(inner)


def _try_layers() -> None:
    context = kernel.fsopen("overlay")
    try:
        kernel.fsconfig_string(context, "lowerdir+", "/")
    finally:
        os.close(context)


def _new(fstype: str, attributes: int = 0) -> int:
    context = kernel.fsopen(fstype)
    try:
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, attributes)
    finally:
        os.close(context)
