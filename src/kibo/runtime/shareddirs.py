"""Directories that several boxes have at once: one overlay for all of a branch, of which each box has parts at /shared.

A part is a mount of one directory of the overlay, so that what one box writes the others see at once, and no path of a
box leads to the directory above. The overlay itself is in no box's sight. At a fork it becomes a sealed layer once
nobody who runs has a part of it, else it is copied, while all who have one are stopped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kibo.runtime import kernel, roots

#: Where the warden mounts overlays of branches.
MOUNTS: Final = "/kibo/shares"
#: That directory, below a box's root, and below an overlay's.
DIRECTORY: Final = "shared"

#: What a shared directory may be called: no path, nothing hidden, no longer than a file's name may be.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_SAFE: Final = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True, eq=False)
class Shared:
    """The shared directories of one branch.

    Attributes:
        path: Where its overlay is mounted, in the warden's namespace, while it is.
        layers: Paths of its sealed layers there, lowest first.
        upper: Where on disk its writable layer lies.
        owner: Who owns a directory that is made, as the warden counts; None for the warden's own id.
        mounted: Whether the overlay is mounted.
        users: Roots through which it may be written to.
        holders: Roots that have parts of it, or had and will again.
        ended: Whether it goes with the last of them.
    """

    path: str
    layers: tuple[str, ...]
    upper: str
    owner: int | None
    mounted: bool = False
    users: int = 0
    holders: int = 0
    ended: bool = False

    def part(self, name: str) -> int:
        """Makes a detached mount of one directory, which is made if it is not there. Returns its descriptor."""
        if not self.mounted:
            self._mount()
        fd = os.open(self.path, _DIRECTORY)
        for each, mode in ((DIRECTORY, 0o755), (name, 0o777)):
            above = fd
            try:
                fd = self._directory(above, each, mode)
            finally:
                os.close(above)
        try:
            return kernel.open_tree(fd, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
        finally:
            os.close(fd)

    def _directory(self, above: int, name: str, mode: int) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, mode, dir_fd=above)
        fd = os.open(name, _DIRECTORY, dir_fd=above)
        os.fchmod(fd, mode)
        if self.owner is not None:
            os.fchown(fd, self.owner, self.owner)
        return fd

    def _mount(self) -> None:
        if not os.path.lexists(self.upper):
            os.close(roots.disk_upper(self.upper))
        tree = roots.overlay((roots.BARE, *(f"{layer}/u" for layer in self.layers)), f"{self.upper}/")
        try:
            os.mkdir(self.path, 0o755)
            try:
                kernel.move_mount(tree, self.path)
            except BaseException:
                os.rmdir(self.path)
                raise
        finally:
            os.close(tree)
        self.mounted = True

    def seal(self, upper: str) -> bool:
        """Makes the writable layer the last of the sealed ones, for whoever mounts the overlay next.

        Args:
            upper: Where on disk the next writable layer goes.

        Returns:
            False where it may still be written to, and nothing was done.
        """
        if self.users:
            return False
        if self.mounted:
            roots.take_down()
            try:
                roots.stop_writes_anywhere(self.path)
            except OSError:
                return False  # somebody has a file of it open: it is copied instead, whoever that is
            self._unmount()
        if os.path.lexists(self.upper):
            self.layers = (*self.layers, self.upper)
            self.upper = upper
        return True

    def end(self) -> None:
        """Lets go of it as soon as nobody has a part."""
        self.ended = True
        if not self.holders:
            self._unmount()

    def hold(self) -> None:
        """Counts one more holder."""
        self.holders += 1

    def release(self) -> None:
        """Counts one holder less."""
        self.holders -= 1
        if self.ended:
            self.end()

    def _unmount(self) -> None:
        if self.mounted:
            kernel.umount2(self.path, kernel.MNT_DETACH)
            os.rmdir(self.path)
            self.mounted = False


@dataclass(slots=True)
class Part:
    """What one box has of a branch's shared directories.

    Attributes:
        of: The directories.
        names: Those that the box has, by name.
        counted: Whether its root is one of their users.
    """

    of: Shared
    names: tuple[str, ...]
    counted: bool = False

    def __post_init__(self) -> None:
        """Holds them."""
        self.of.hold()

    def for_another(self) -> Part:
        """Describes the same for another root."""
        return Part(self.of, self.names)

    @property
    def places(self) -> tuple[str, ...]:
        """Where they are mounted, as the box names it."""
        return tuple(f"/{DIRECTORY}/{name}" for name in self.names)

    def mounts(self) -> Iterator[tuple[int, str]]:
        """Makes what goes below a root, in order: detached mounts, the taker's to close, and their places."""
        self.count()
        context = kernel.fsopen("tmpfs")
        try:
            kernel.fsconfig_string(context, "mode", "0755")
            kernel.fsconfig_create(context)
            above = kernel.fsmount(context, _SAFE | kernel.MOUNT_ATTR_NOEXEC)
        finally:
            os.close(context)
        for name in self.names:
            os.mkdir(name, 0o755, dir_fd=above)
        kernel.mount_setattr(above, set_=kernel.MOUNT_ATTR_RDONLY)
        yield above, DIRECTORY
        for name in self.names:
            yield self.of.part(name), f"{DIRECTORY}/{name}"

    def count(self) -> None:
        """Counts its root as one through which may be written."""
        if not self.counted:
            self.counted = True
            self.of.users += 1

    def discount(self) -> None:
        """Counts its root no more: nothing is written through it."""
        if self.counted:
            self.counted = False
            self.of.users -= 1

    def release(self) -> None:
        """Lets go of them: nothing runs below its root any more."""
        self.discount()
        self.of.release()


def shareable(name: str) -> bool:
    """Tells whether a shared directory may be called so."""
    return _NAME.fullmatch(name) is not None


def make_place() -> None:
    """Makes, once in the warden, what boxes with shared directories lie over."""
    os.mkdir(roots.SHARED_PLACE, 0o755)
    os.mkdir(f"{roots.SHARED_PLACE}/{DIRECTORY}", 0o755)
    os.mkdir(MOUNTS, 0o755)
