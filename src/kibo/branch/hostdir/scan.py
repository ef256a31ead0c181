"""Reads a host directory that others may be writing, and copies into a layer what a manifest does not already have.

One directory at a time, by descriptor; nothing follows a link. A file counts as copied when its status was the same
before and after; a directory, when it was the same before and after all of its entries were read.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kibo.branch.hostdir.frozen import PLACE
from kibo.branch.hostdir.manifest import Manifest, Row
from kibo.branch.hostdir.reading import Reading
from kibo.model.errors import InvalidInput, WorkspaceChanging, WorkspaceUnreadable
from kibo.runtime import kernel
from kibo.runtime.trees import attributes
from kibo.runtime.trees.copying import copy_content
from kibo.runtime.trees.stack import check_length, join, parent
from kibo.store.crash import point

#: How often a file or directory is read again that changed while it was read.
MAX_TRIES: Final = 8
#: A clock tick of the slowest kernels: two writes within one may leave the same time.
_RACY_NS: Final = 20_000_000
#: Seconds between two reports of progress.
_REPORTED_S: Final = 0.1

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_BOX: Final = PLACE.encode()
#: What besides directories boxes see.
SEEN: Final = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO)
_OTHERS: Final = {
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
BENEATH: Final = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS


class _Vanished(Exception):
    """What was listed is gone, or something else, by the time it is opened."""


_Listing = list[tuple[bytes, os.stat_result]]
#: A directory in one that is read: its name and status, and its old row.
_Inner = tuple[bytes, os.stat_result, Row | None]


@dataclass(slots=True)
class _Frame:
    """A directory on the way down.

    Attributes:
        path: Relative to the host directory.
        info: Its status.
        own: Its extended attributes.
        made: Whether the layer has it.
        pending: Directories in it that are still to be read, the next one last, each with its old row.
        left_out: Those that boxes see empty.
    """

    path: bytes
    info: os.stat_result
    own: dict[str, bytes]
    made: bool = False
    pending: list[_Inner] = field(default_factory=list)
    left_out: list[_Inner] = field(default_factory=list)


class Scan:
    """One reading of one directory."""

    def __init__(
        self,
        host_fd: int,
        layer_fd: int,
        manifest: Manifest,
        *,
        known: bool,
        owner: tuple[int, int] | None,
        avoid: tuple[int, int],
        databases: frozenset[tuple[int, int]],
        progress: Callable[[Reading], None] | None,
    ) -> None:
        """Prepares it.

        Args:
            host_fd: The host directory.
            layer_fd: An empty directory for what is new.
            manifest: The rows of what lower layers already have; is brought up to date.
            known: Whether there are lower layers.
            owner: User and group ids for everything that is copied, or None for this process's.
            avoid: Device and inode of a directory to leave out: the state directory itself.
            databases: Those of files that must not be opened: SQLite's, of this process.
            progress: Called several times a second, and at the end.
        """
        self._host, self._layer, self._manifest = host_fd, layer_fd, manifest
        self._known, self._avoid, self._databases = known, avoid, databases
        self._owner = None if owner == (os.geteuid(), os.getegid()) else owner
        self._progress = progress
        self.done = Reading()
        self._reported_s = time.monotonic()
        self.layer_entries = 0
        self._device = os.fstat(host_fd).st_dev
        self._layer_device = os.fstat(layer_fd).st_dev
        #: Hard links: where in the layer an inode is, and what it looked like.
        self._links: dict[int, tuple[bytes, Row]] = {}
        self._frames: list[_Frame] = []

    def run(self) -> None:
        """Reads everything.

        Raises:
            WorkspaceUnreadable: Something cannot be read by this user.
            InvalidInput: The store lies in it.
            PathTooLong: Something lies so deep that no layer could hold it.
            WorkspaceChanging: Something never kept still.
            PathTooLong: Directories are nested deeper than a path can name.
            OSError: The disk is full, among others.
        """
        root = os.fstat(self._host)
        self._manifest.set_frozen(b"", [(b"", Row.of(root))])
        if not self._enter(b"", known=self._known, changed=True):
            raise FileNotFoundError(errno.ENOENT, "the host directory is gone")
        while self._frames:
            top = self._frames[-1]
            if top.pending:
                name, info, before = top.pending.pop()
                self._descend(join(top.path, name), info, before)
            else:
                self._frames.pop()
                if top.made:
                    self._settle(top)
        self._report(b"", last=True)

    def _descend(self, path: bytes, info: os.stat_result, before: Row | None) -> None:
        known = before is not None and stat.S_ISDIR(before.mode)
        changed = not known or before is None or not before.matches(info)
        if not self._enter(path, known=known, changed=changed):
            # Gone since it was listed: as if it had not been there.
            self._manifest.drop_frozen(path)
            if before is not None and in_layers(before):
                self._whiteout(path)

    # One directory.

    def _enter(self, path: bytes, *, known: bool, changed: bool) -> bool:
        """Reads one directory until it is the same before and after. Returns False when it has vanished."""
        try:
            fd = kernel.openat2(self._host, path or b".", _DIRECTORY, 0, BENEATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise self._named(error, path) from None
        try:
            frame = _Frame(path, os.fstat(fd), attributes.seen(fd, layer=False))
            self._frames.append(frame)
            if changed:
                self._make_frames()
            old = self._manifest.frozen_in(path) if known else {}
            self._read(fd, frame, old)
        finally:
            os.close(fd)
        return True

    def _read(self, fd: int, frame: _Frame, old: dict[bytes, Row]) -> None:
        rows: dict[bytes, Row] = {}
        written: set[bytes] = set()
        for _ in range(MAX_TRIES):
            frame.info = os.fstat(fd)
            listing = self._list(fd, frame.path)
            for name in written - {name for name, _ in listing}:
                os.unlink(join(frame.path, name), dir_fd=self._layer)
                written.discard(name)
            rows = self._pass(fd, frame, listing, old, rows, written)
            if Row.of(frame.info).matches(os.fstat(fd)):
                break
        else:
            raise _changing(frame.path or b".")
        for name, info, _ in frame.left_out:
            self._leave_out(join(frame.path, name), info)
        for name in old.keys() - rows.keys():
            self._manifest.drop_frozen(join(frame.path, name))
        for name, before in old.items():
            now = rows.get(name)
            if in_layers(before) and (now is None or not in_layers(now)):
                self._whiteout(join(frame.path, name))
            if now is not None and stat.S_ISDIR(before.mode) and not stat.S_ISDIR(now.mode):
                self._manifest.drop_frozen(join(frame.path, name))
        changed = [(name, row) for name, row in rows.items() if old.get(name) is not row]
        self._manifest.set_frozen(frame.path, changed)
        self.done.entries += len(rows)
        self._report(frame.path)

    def _list(self, fd: int, path: bytes) -> _Listing:
        found = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        found.append((os.fsencode(entry.name), entry.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue  # the directory's time has changed with it
        except PermissionError as error:
            raise self._named(error, path) from None
        check_length(join(_IN_BOX, path) if path else _IN_BOX, (name for name, _ in found))
        return found

    def _pass(
        self,
        fd: int,
        frame: _Frame,
        listing: _Listing,
        old: dict[bytes, Row],
        fresh: dict[bytes, Row],
        written: set[bytes],
    ) -> dict[bytes, Row]:
        """Goes through a directory's entries once. Returns their rows, old ones for what has not changed."""
        rows: dict[bytes, Row] = {}
        frame.pending, frame.left_out = [], []
        for name, info in listing:
            before = old.get(name)
            kind = stat.S_IFMT(info.st_mode)
            if kind == stat.S_IFDIR:
                self._remove_written(frame, name, written)
                rows[name] = before if before is not None and before.matches(info) else Row.of(info)
                (frame.left_out if self._left_out(info) else frame.pending).append((name, info, before))
            elif kind not in SEEN:
                self._remove_written(frame, name, written)
                self._manifest.skip(join(frame.path, name), _OTHERS.get(kind, "unknown kind"))
                rows[name] = Row.of(info)
            elif name in written and fresh[name].matches(info):
                rows[name] = fresh[name]
            elif name not in written and before is not None and before.matches(info) and not before.racy:
                rows[name] = before
            else:
                self._remove_written(frame, name, written)
                try:
                    rows[name] = self._copy(fd, name, frame.path, info)
                except _Vanished:
                    continue  # the directory's time has changed with it
                written.add(name)
        frame.pending.reverse()
        return rows

    def _remove_written(self, frame: _Frame, name: bytes, written: set[bytes]) -> None:
        if name in written:
            os.unlink(join(frame.path, name), dir_fd=self._layer)
            written.discard(name)

    def _left_out(self, info: os.stat_result) -> str:
        if (info.st_dev, info.st_ino) == self._avoid:
            return "Kibo's own state directory"
        return "" if info.st_dev == self._device else "mount point"

    def _leave_out(self, path: bytes, info: os.stat_result) -> None:
        """Leaves a directory's contents out; boxes see it empty."""
        self._manifest.skip(path, self._left_out(info))
        self._make_frames()
        os.mkdir(path, stat.S_IMODE(info.st_mode), dir_fd=self._layer)
        self.layer_entries += 1
        if self._known:
            os.setxattr(self._place(path), attributes.OPAQUE, b"y")
        self._own(path)

    # One entry.

    def _copy(self, fd: int, name: bytes, directory: bytes, info: os.stat_result) -> Row:
        path = join(directory, name)
        self._make_frames()
        if stat.S_ISLNK(info.st_mode):
            try:
                target = os.readlink(name, dir_fd=fd)
            except OSError:
                raise _Vanished from None
            os.symlink(target, path, dir_fd=self._layer)
            self.layer_entries += 1
            self._own(path)
            os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns), dir_fd=self._layer, follow_symlinks=False)
            return Row.of(info)
        if stat.S_ISFIFO(info.st_mode):
            self._fifo(path, info)
            return Row.of(info)
        if info.st_nlink > 1 and (first := self._links.get(info.st_ino)) and first[1].matches(info):
            os.link(first[0], path, src_dir_fd=self._layer, dst_dir_fd=self._layer, follow_symlinks=False)
            self.layer_entries += 1
            return first[1]
        if (info.st_dev, info.st_ino) in self._databases:
            raise InvalidInput(
                f"{os.fsdecode(path)!r} in the workspace is the store that this process uses",
                hint="move the store out of the workspace, or into the state directory, which is left out; "
                "KIBO_STORE says where it is",
            )
        try:
            source = os.open(name, _FILE, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                raise _Vanished from None
            raise self._named(error, path) from None
        try:
            row = self._copy_still(source, path)
        finally:
            os.close(source)
        if info.st_nlink > 1:
            self._links[info.st_ino] = path, row
        self.layer_entries += 1
        self.done.copied += 1
        self.done.copied_bytes += row.size
        self._report(directory)
        return row

    def _fifo(self, path: bytes, info: os.stat_result) -> None:
        """Makes a FIFO that leads nowhere yet: boxes get the name, never the other end."""
        os.mkfifo(path, 0o600, dir_fd=self._layer)
        self.layer_entries += 1
        self._own(path)
        os.chmod(path, stat.S_IMODE(info.st_mode), dir_fd=self._layer)
        os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns), dir_fd=self._layer)

    def _copy_still(self, source: int, path: bytes) -> Row:
        """Copies a file that is the same before and after."""
        for _ in range(MAX_TRIES):
            info = os.fstat(source)
            if not stat.S_ISREG(info.st_mode):
                raise _Vanished
            target = os.open(path, _NEW, 0o600, dir_fd=self._layer)
            try:
                copy_content(source, target, info, self._layer_device)
                point("freeze.copied")
                now = time.time_ns()
                after = os.fstat(source)
                row = Row.of(info, racy=now - info.st_ctime_ns < _RACY_NS)
                if row.matches(after):
                    if self._owner is not None:
                        os.fchown(target, *self._owner)
                    if own := attributes.seen(source, layer=False):
                        attributes.write(target, own)
                    os.fchmod(target, stat.S_IMODE(info.st_mode))
                    os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
                    return row
            finally:
                os.close(target)
            os.unlink(path, dir_fd=self._layer)
            os.lseek(source, 0, os.SEEK_SET)
        raise _changing(path)

    # The layer.

    def _make_frames(self) -> None:
        """Makes the directories that lead to the one that is being read."""
        first = len(self._frames)
        while first and not self._frames[first - 1].made:
            first -= 1
        for frame in self._frames[first:]:
            if frame.path:
                os.mkdir(frame.path, 0o700, dir_fd=self._layer)
                self.layer_entries += 1
            frame.made = True

    def _settle(self, frame: _Frame) -> None:
        where = frame.path or b"."
        self._own(where)
        attributes.write(self._place(frame.path), frame.own)
        os.chmod(where, stat.S_IMODE(frame.info.st_mode), dir_fd=self._layer)
        times = (frame.info.st_mtime_ns, frame.info.st_mtime_ns)
        os.utime(where, ns=times, dir_fd=self._layer)

    def _whiteout(self, path: bytes) -> None:
        self._make_frames()
        os.mknod(path, stat.S_IFCHR, 0, dir_fd=self._layer)
        os.setxattr(self._place(parent(path)), attributes.ORIGIN, b"")
        self.layer_entries += 1

    def _own(self, path: bytes) -> None:
        if self._owner is not None:
            os.chown(path, *self._owner, dir_fd=self._layer, follow_symlinks=False)

    def _place(self, path: bytes) -> bytes:
        return b"/proc/self/fd/%d/%b" % (self._layer, path)

    def _report(self, path: bytes, *, last: bool = False) -> None:
        if self._progress is None:
            return
        now = time.monotonic()
        if last or now - self._reported_s >= _REPORTED_S:
            self._reported_s = now
            self.done.path, self.done.done = path, last
            self._progress(self.done)

    def _named(self, error: OSError, path: bytes) -> Exception:
        shown = os.fsdecode(path)
        if error.errno not in (errno.EACCES, errno.EPERM):
            return OSError(error.errno, os.strerror(error.errno or 0), shown)
        return WorkspaceUnreadable(
            f"{shown!r} in the workspace cannot be read by this user",
            hint="make it readable (`chmod u+r`), move it out of the workspace, or freeze as its owner",
            details={"path": shown},
        )


def in_layers(row: Row) -> bool:
    """Whether boxes see a path of the host, rather than only being told that it was left out."""
    return stat.S_IFMT(row.mode) in (*SEEN, stat.S_IFDIR)


def _changing(path: bytes) -> WorkspaceChanging:
    shown = os.fsdecode(path)
    return WorkspaceChanging(
        f"{shown!r} in the workspace changed each of {MAX_TRIES} times that it was read",
        hint="stop what writes it, or keep it outside of the workspace, and try again",
        details={"path": shown},
    )
