"""Writes a delta: a directory in the form that overlayfs gives a writable layer.

Entries come in order, a directory before what is in it. A directory is open to its maker while it is filled, and gets
its mode and time when the writer has left it. Files that lie in another delta on the same file system are linked, not
copied: sealed layers never change, so one inode may be in several.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kibo.runtime.trees import attributes
from kibo.runtime.trees.changes import DROPPED
from kibo.runtime.trees.copying import copy_content, write_whole
from kibo.runtime.trees.stack import AnyPath, Node, join, parent

#: What says that this file cannot be linked here: another file system, not ours to link, or linked too often.
_NOT_LINKED: Final = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is to hold that no layer has.

    Attributes:
        data: Its bytes, or the path of a file that has them.
        look: Its mode, attributes and owner.
        mtime_ns: When it was written, or None for now.
    """

    data: bytes | os.PathLike[str]
    look: Look
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What an entry has besides its content.

    Attributes:
        mode: Permission bits.
        attributes: Extended attributes, as programs see them.
        owner: User and group ids.
    """

    mode: int
    attributes: dict[str, bytes]
    owner: tuple[int, int]

    @classmethod
    def of(cls, node: Node) -> Look:
        """Reads a node's."""
        return cls(node.mode, node.attributes(), (node.info.st_uid, node.info.st_gid))


class DeltaWriter:
    """Fills one directory. Used as a context manager, which finishes it unless the block raises."""

    def __init__(self, root: AnyPath, like: Callable[[bytes], Node | None], *, share: bool = True) -> None:
        """Opens an empty directory.

        Args:
            root: The directory.
            like: Gives, for a path above one that is written, the directory whose mode, owner, time and attributes
                it gets; asked once a directory.
            share: Whether files may be linked from other layers instead of copied.
        """
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self._fd).st_dev
        self._like = like
        self._share = share
        #: Directories that are being filled, from the root down, each with what it is to look like.
        self._open: list[tuple[bytes, Node, Look | None]] = []
        self._copied: dict[tuple[int, int], bytes] = {}
        self.written = 0

    def __enter__(self) -> DeltaWriter:
        """Returns the writer."""
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        """Settles the directories that are still open, unless something went wrong, and closes."""
        try:
            if kind is None:
                self._leave(None)
                root = self._like(b"")
                if root is not None:
                    self._settle(b"", root)
        finally:
            os.close(self._fd)

    def directory(
        self, node: Node, path: bytes | None = None, *, opaque: bool = False, look: Look | None = None
    ) -> None:
        """Makes a directory like ``node``, or with another look.

        Args:
            node: What it is like.
            path: Where, unless at the node's own path.
            opaque: Whether nothing of the layers below is to be seen in it.
            look: Its mode, attributes and owner, unless the node's.
        """
        path = node.path if path is None else path
        self._enter(path)
        os.mkdir(path, 0o700, dir_fd=self._fd)
        if opaque:
            os.setxattr(self._place(path), attributes.OPAQUE, b"y")
        self._open.append((path, node, look))
        self.written += 1

    def whiteout(self, path: bytes) -> None:
        """Says that nothing is at a path, whatever the layers below have."""
        self._enter(path)
        # The one device that a process without rights may make, since Linux 5.8.
        os.mknod(path, stat.S_IFCHR, 0, dir_fd=self._fd)
        os.setxattr(self._place(parent(path)), attributes.ORIGIN, b"")
        self.written += 1

    def copy(self, node: Node, path: bytes | None = None) -> None:
        """Puts what is no directory where it is, or at another path. A link to the same inode if possible.

        Raises:
            OSError: It cannot be read or written. ``ENOSPC`` where the disk is full.
        """
        path = node.path if path is None else path
        self._enter(path)
        self.written += 1
        if self._share and node.info.st_dev == self._device and self._linked(node, path):
            return
        first = (node.info.st_dev, node.info.st_ino)
        if node.info.st_nlink > 1 and first in self._copied:
            os.link(
                self._copied[first], path, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False
            )
            return
        if node.kind == "link":
            os.symlink(node.target(), path, dir_fd=self._fd)
        elif node.kind != "file":
            os.mknod(path, stat.S_IFMT(node.info.st_mode) | 0o600, node.info.st_rdev, dir_fd=self._fd)
        else:
            source = node.descriptor()
            try:
                target = os.open(path, _NEW_FILE, 0o600, dir_fd=self._fd)
                try:
                    copy_content(source, target, node.info, self._device)
                finally:
                    os.close(target)
            finally:
                os.close(source)
        if node.info.st_nlink > 1:
            self._copied[first] = path
        self._settle(path, node)

    def content(self, path: bytes, content: Content) -> None:
        """Writes a file that no layer has."""
        self._enter(path)
        self.written += 1
        fd = os.open(path, _NEW_FILE, 0o600, dir_fd=self._fd)
        try:
            if isinstance(content.data, bytes):
                write_whole(fd, content.data)
            else:
                with open(content.data, "rb", buffering=0) as source:
                    copy_content(source.fileno(), fd, os.fstat(source.fileno()), self._device)
            if content.look.owner != (os.geteuid(), os.getegid()):
                os.fchown(fd, *content.look.owner)
            attributes.write(fd, content.look.attributes)
            os.fchmod(fd, content.look.mode)
            if content.mtime_ns is not None:
                os.utime(fd, ns=(content.mtime_ns, content.mtime_ns))
        finally:
            os.close(fd)

    def graft(self, node: Node, path: bytes | None = None, *, opaque: bool = False) -> list[bytes]:
        """Puts all that a stack shows at a path: a directory with everything in it.

        Returns:
            Paths of the sockets and devices in it that were left out.
        """
        path = node.path if path is None else path
        if node.kind in DROPPED:
            return [path]
        if node.kind != "directory":
            self.copy(node, path)
            return []
        self.directory(node, path, opaque=opaque)
        left_out = []
        pending = [(path, node.children())]
        while pending:
            above, children = pending[-1]
            child = next(children, None)
            if child is None:
                pending.pop()
                continue
            place = join(above, child.path.rpartition(b"/")[2])
            if child.kind == "directory":
                self.directory(child, place)
                pending.append((place, child.children()))
            elif child.kind in DROPPED:
                left_out.append(place)
            else:
                self.copy(child, place)
        return left_out

    def _place(self, path: bytes) -> bytes:
        return b"/proc/self/fd/%d/%b" % (self._fd, path)

    def _linked(self, node: Node, path: bytes) -> bool:
        try:
            os.link(
                node.path,
                path,
                src_dir_fd=node.stack.descriptors[node.layer],
                dst_dir_fd=self._fd,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in _NOT_LINKED:
                raise
            return False
        return True

    def _enter(self, path: bytes) -> None:
        """Leaves the directories that the path is not in, and makes those above it that are missing."""
        self._leave(path)
        above = parent(path)
        missing = []
        while above and (not self._open or self._open[-1][0] != above):
            missing.append(above)
            above = parent(above)
        for directory in reversed(missing):
            node = self._like(directory)
            if node is None or node.kind != "directory":
                raise ValueError(f"nothing says what the directory {directory!r} looks like")
            os.mkdir(directory, 0o700, dir_fd=self._fd)
            self._open.append((directory, node, None))
            self.written += 1

    def _leave(self, path: bytes | None) -> None:
        while self._open and (path is None or not path.startswith(self._open[-1][0] + b"/")):
            self._settle(*self._open.pop())

    def _settle(self, path: bytes, node: Node, look: Look | None = None) -> None:
        """Gives an entry its owner, attributes, mode and time, in the order in which each survives the next."""
        look = look or Look.of(node)
        where = path or b"."
        if look.owner != (os.geteuid(), os.getegid()):
            os.chown(where, *look.owner, dir_fd=self._fd, follow_symlinks=False)
        if node.kind != "link":
            attributes.write(self._place(path), look.attributes)
            os.chmod(where, look.mode, dir_fd=self._fd)
        times = (node.info.st_atime_ns, node.info.st_mtime_ns)
        os.utime(where, ns=times, dir_fd=self._fd, follow_symlinks=False)
