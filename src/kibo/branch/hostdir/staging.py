"""Writes new contents beside where they will be, under hidden names, with everything that they will have."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from kibo.branch.hostdir.places import Places, place
from kibo.runtime import kernel
from kibo.runtime.trees import attributes
from kibo.runtime.trees.changes import DROPPED
from kibo.runtime.trees.copying import copy_content
from kibo.runtime.trees.removing import identity, leave, replaced
from kibo.runtime.trees.stack import Node, join, kind_of, parent

#: Of a mode, what may come from a box to the host: nothing that a box made runs there as its owner or group.
HOST_BITS: Final = 0o1777
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Above this many files, one call that flushes the file system costs less than one a file.
_FLUSHED_SINGLY: Final = 64


class Staging:
    """Copies nodes of a stack to the host.

    Everything is reached by descriptors of what was made here: whoever may write in the host directory could put a
    link, or another file, under a name meanwhile.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        #: Inodes of the stack that have been written: where on the host, and as which inode there.
        self._links: dict[tuple[int, int], tuple[bytes, tuple[int, int]]] = {}
        self._files = 0
        self._devices: dict[int, int] = {}
        self.dropped: list[bytes] = []

    def close(self) -> None:
        """Closes what it kept open."""
        while self._devices:
            os.close(self._devices.popitem()[1])

    def put(self, directory: bytes, name: bytes, node: Node, keep_owner: os.stat_result | None) -> None:
        """Writes a node, a directory with everything in it.

        Args:
            directory: The directory of the host.
            name: A name in it that is free.
            node: What to write.
            keep_owner: The status of what it will replace, whose owner it gets; None for that of the directory.
        """
        fd = os.dup(self._places.directory(directory))
        try:
            owner = self._owner(fd) if keep_owner is None else (keep_owner.st_uid, keep_owner.st_gid)
            owned = _Owned(*owner, must=keep_owner is not None)
            if node.kind == "directory":
                self._tree(fd, directory, name, node, owned)
            else:
                self._entry(fd, join(directory, name), node, owned)
            self._flush_names(fd)
        finally:
            os.close(fd)

    def flush(self) -> None:
        """Waits until everything is on the disk."""
        if self._files > _FLUSHED_SINGLY:
            for fd in self._devices.values():
                kernel.syncfs(fd)

    def _tree(self, fd: int, above: bytes, name: bytes, node: Node, owned: _Owned) -> None:
        here = self._directory(fd, name)
        try:
            levels = [(join(above, name), node, node.children(), identity(here))]
            while True:
                path, directory, children, _ = levels[-1]
                child = next(children, None)
                if child is None:
                    levels.pop()
                    self._settle(here, directory, owned)
                    self._flush_one(here)
                    if not levels:
                        return
                    here = replaced(here, leave(here, levels[-1][3]))
                    continue
                inner = join(path, child.path.rpartition(b"/")[2])
                if child.kind == "directory":
                    here = replaced(here, self._directory(here, inner.rpartition(b"/")[2]))
                    levels.append((inner, child, child.children(), identity(here)))
                elif child.kind in DROPPED:
                    self.dropped.append(child.path)
                else:
                    self._entry(here, inner, child, owned)
        finally:
            os.close(here)

    def _directory(self, fd: int, name: bytes) -> int:
        """Makes a directory and opens it; nobody else has anything in it."""
        os.mkdir(name, 0o700, dir_fd=fd)
        try:
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            raise _swapped(name) from None
        if os.listdir(made):
            os.close(made)
            raise _swapped(name)
        return made

    def _entry(self, fd: int, path: bytes, node: Node, owned: _Owned) -> None:
        name = path.rpartition(b"/")[2]
        if node.info.st_nlink > 1 and self._linked(fd, name, node):
            return
        if node.kind == "file":
            opened = self._file(fd, name, node)
        else:
            if node.kind == "link":
                os.symlink(node.target(), name, dir_fd=fd)
            else:
                os.mkfifo(name, 0o600, dir_fd=fd)
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            info = os.fstat(opened)
            if kind_of(info.st_mode) != node.kind or info.st_nlink != 1:
                raise _swapped(name)
            self._settle(opened, node, owned)
            if node.kind == "file":
                self._flush_one(opened)
        finally:
            os.close(opened)
        if node.info.st_nlink > 1:
            self._links[node.info.st_dev, node.info.st_ino] = path, (info.st_dev, info.st_ino)

    def _file(self, fd: int, name: bytes, node: Node) -> int:
        source = node.descriptor()
        try:
            target = os.open(name, _NEW, 0o600, dir_fd=fd)
            try:
                copy_content(source, target, node.info, os.fstat(target).st_dev)
            except BaseException:
                os.close(target)
                raise
            return target
        finally:
            os.close(source)

    def _linked(self, fd: int, name: bytes, node: Node) -> bool:
        """Makes another name of what was written already. False where that cannot be: a copy then."""
        known = self._links.get((node.info.st_dev, node.info.st_ino))
        if known is None:
            return False
        path, expected = known
        try:
            first = self._places.beneath(parent(path))
        except OSError:
            return False
        try:
            os.link(path.rpartition(b"/")[2], name, src_dir_fd=first, dst_dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False  # on another device, or linked too often
        finally:
            os.close(first)
        made = os.lstat(name, dir_fd=fd)
        if (made.st_dev, made.st_ino) == expected:
            return True
        os.unlink(name, dir_fd=fd)
        return False

    def _owner(self, fd: int) -> tuple[int, int]:
        info = os.fstat(fd)
        return (info.st_uid, info.st_gid) if os.geteuid() == 0 else (os.geteuid(), os.getegid())

    def _settle(self, opened: int, node: Node, owned: _Owned) -> None:
        """Gives owner, attributes, mode and time, in this order: each would disturb the one before it."""
        info = os.fstat(opened)
        itself = place(opened, b"").rstrip(b"/")
        if (owned.user, owned.group) != (info.st_uid, info.st_gid):
            try:
                kernel.fchownat(opened, owned.user, owned.group)
            except OSError:
                # What is new may belong to whoever applies it; what was somebody's stays theirs.
                if owned.must:
                    raise
        if node.kind != "link":
            attributes.write_through(itself, node.attributes())
            os.chmod(itself, host_mode(node, info))
        kernel.utimensat(opened, node.info.st_atime_ns, node.info.st_mtime_ns)

    def _flush_one(self, opened: int) -> None:
        self._files += 1
        if self._files <= _FLUSHED_SINGLY:
            os.fsync(opened)

    def _flush_names(self, fd: int) -> None:
        device = os.fstat(fd).st_dev
        if device not in self._devices:
            self._devices[device] = os.dup(fd)
        self._flush_one(fd)


@dataclass(frozen=True, slots=True)
class _Owned:
    """Whose what is written is to be, and whether it is an error if it cannot be."""

    user: int
    group: int
    must: bool


def _swapped(name: bytes) -> OSError:
    return OSError(errno.ESTALE, "another process put something under a temporary name", os.fsdecode(name))


def host_mode(node: Node, info: os.stat_result) -> int:
    """Returns the mode that a node of a stack gets on the host.

    Args:
        node: The node.
        info: What is there. A directory keeps the host's own set-group-id, which shared directories inherit.
    """
    own = stat.S_IMODE(info.st_mode) & ~HOST_BITS if stat.S_ISDIR(info.st_mode) else 0
    return node.mode & HOST_BITS | own
