"""Copies a writable layer as it is: what a program sees in it, and the overlay's own notes, whiteouts included.

The tree is a box's, whose processes are stopped, though one may have found a way to wake. So no step goes through a
path of more than one name, none follows a link, and what is opened is looked at before it is read.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Final

from kibo.runtime.trees.copying import copy_content

#: Parts of a layer: the root's, and that of ``/usr`` where a box may write there.
PARTS: Final = (b"u", b"usr-u")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT: Final = (errno.ENODATA, errno.ENOTSUP)


def copy_layer(source: int, target: int) -> None:
    """Copies the parts of a layer into those of an empty one. Sockets are left out: nobody would answer.

    Args:
        source: The layer's directory.
        target: That of the empty one, made by `roots.new_upper` or `roots.disk_upper`.

    Raises:
        OSError: ``ENOSPC`` where it has no room; others where the tree cannot be read or written.
    """
    device = os.fstat(target).st_dev
    for part in PARTS:
        try:
            top = os.open(part, _DIRECTORY, dir_fd=source)
        except FileNotFoundError:
            continue
        _Copy(os.open(part, _DIRECTORY, dir_fd=target), device).run(top)


@dataclass(slots=True)
class _Level:
    """A directory that is being copied."""

    source: int
    target: int
    path: bytes
    names: list[bytes]


@dataclass(slots=True)
class _Copy:
    """The copy of one tree."""

    root: int
    device: int
    #: Where a file with several names was copied to first, by what it is.
    copied: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def run(self, top: int) -> None:
        levels = [_Level(top, os.dup(self.root), b"", _names(top))]
        try:
            while levels:
                level = levels[-1]
                if level.names:
                    below = self._entry(level, level.names.pop())
                    if below is not None:
                        levels.append(below)
                    continue
                # Last, because filling it changes its time, and its mode may forbid that.
                _settle(level.source, level.target)
                self._close(levels.pop())
        finally:
            for level in levels:
                self._close(level)
            os.close(self.root)

    def _close(self, level: _Level) -> None:
        os.close(level.source)
        os.close(level.target)

    def _entry(self, level: _Level, name: bytes) -> _Level | None:
        """Copies one name. Returns the directory that it is, to be gone into."""
        try:
            info = os.lstat(name, dir_fd=level.source)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(info.st_mode):
            source = os.open(name, _DIRECTORY, dir_fd=level.source)
            try:
                os.mkdir(name, 0o700, dir_fd=level.target)
                target = os.open(name, _DIRECTORY, dir_fd=level.target)
            except BaseException:
                os.close(source)
                raise
            return _Level(source, target, b"%b%b/" % (level.path, name), _names(source))
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            # Says that nothing is here. The one device that a process without rights may make (Linux 5.8).
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=level.target)
        elif info.st_nlink > 1 and self._linked(level, name, info):
            pass
        elif stat.S_ISREG(info.st_mode):
            self._file(level, name)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=level.source), name, dir_fd=level.target)
            _dress(level.target, name, info)
        elif stat.S_ISFIFO(info.st_mode):
            os.mkfifo(name, 0o600, dir_fd=level.target)
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=level.target)
            _dress(level.target, name, info)
        else:
            return None
        if info.st_nlink > 1:
            self.copied.setdefault((info.st_dev, info.st_ino), level.path + name)
        return None

    def _linked(self, level: _Level, name: bytes, info: os.stat_result) -> bool:
        first = self.copied.get((info.st_dev, info.st_ino))
        if first is None:
            return False
        try:
            os.link(first, name, src_dir_fd=self.root, dst_dir_fd=level.target, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return False  # deeper than any path reaches: it gets a copy of its own
        return True

    def _file(self, level: _Level, name: bytes) -> None:
        source = os.open(name, _READ, dir_fd=level.source)
        try:
            info = os.fstat(source)
            if not stat.S_ISREG(info.st_mode):
                return
            target = os.open(name, _NEW, 0o600, dir_fd=level.target)
            try:
                copy_content(source, target, info, self.device)
                _settle(source, target)
            finally:
                os.close(target)
        finally:
            os.close(source)


def _names(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]


def _settle(source: int, target: int) -> None:
    """Gives an open file or directory the owner, attributes, mode and times of another, in an order that keeps each."""
    info = os.fstat(source)
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(target, info.st_uid, info.st_gid)
    for name in _attributes(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _attributes(fd: int) -> list[str]:
    try:
        return [name for name in os.listxattr(fd) if name.startswith("user.")]
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _dress(directory: int, name: bytes, info: os.stat_result) -> None:
    """Gives what cannot be opened an owner and times."""
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(name, info.st_uid, info.st_gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
