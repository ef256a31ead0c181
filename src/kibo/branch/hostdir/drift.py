"""Whether the host is still what it was where an apply would write."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, Literal

from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.manifest import Manifest, Row
from kibo.branch.hostdir.places import Places
from kibo.branch.hostdir.refusing import refused
from kibo.branch.hostdir.scan import BENEATH, SEEN, in_layers
from kibo.branch.hostdir.staging import HOST_BITS
from kibo.model.errors import HostDrift
from kibo.runtime import kernel
from kibo.runtime.trees import attributes
from kibo.runtime.trees.stack import Node, Stack, join, kind_of, parent, same_bytes

Deed = Literal["create", "replace", "remove", "attributes"]
#: How a path differs from what was frozen.
Drifted = Literal["changed", "removed", "appeared", "unseen", "parent", "mount", "directory"]
_SHOWN: Final = 5
#: What can be done about each.
_REMEDIES: Final[dict[tuple[Drifted, ...], str]] = {
    ("changed", "removed", "appeared", "parent"): (
        "put the host's files back, or take its state into a new branch and merge"
    ),
    ("unseen",): "remove the sockets and devices that are in the way, and apply again",
    ("mount",): "unmount what is mounted there, or undo in a box what the branch did below it",
    ("directory",): "put the directory back, or `kibo checkout --to` writes out what the branch has",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of an apply.

    Attributes:
        path: Relative to the host directory.
        deed: What it does.
        expected: What should be there now, or None for nothing.
        node: What is to be there, or None for nothing. A directory with everything in it, unless only its attributes
            are meant.
    """

    path: bytes
    deed: Deed
    expected: Row | None
    node: Node | None


@dataclass(frozen=True, slots=True)
class Drift:
    """A path of the host that is not what it was.

    Attributes:
        path: Relative to the host directory.
        how: ``changed``, ``removed``, ``appeared``; ``unseen`` where a socket or device is, which no box has seen;
            ``parent`` where a directory above it is gone or a link; ``mount`` where it is on another file system than
            the host directory; ``directory`` where the whole host directory is another.
    """

    path: bytes
    how: Drifted

    def to_dict(self, host: Path) -> dict[str, str]:
        """Describes it as values that JSON can hold, with the whole path."""
        return {"path": os.path.join(host, os.fsdecode(self.path)).rstrip("/"), "how": self.how}


def open_host(frozen: Frozen) -> Places:
    """Opens the host directory if it is still the one that was frozen.

    Raises:
        HostDrift: It is gone, or another is in its place.
        Denied: This user may not open it.
    """
    try:
        places = Places(frozen.host)
    except PermissionError as error:
        raise refused(error, frozen.host, "read") from None
    except OSError:
        raise drifted(frozen, [Drift(b"", "directory")]) from None
    info = os.fstat(places.root)
    if (info.st_dev, info.st_ino) != (frozen.device, frozen.inode):
        places.close()
        raise drifted(frozen, [Drift(b"", "directory")])
    return places


def drifted(frozen: Frozen, found: Sequence[Drift]) -> HostDrift:
    """Makes the error that names what drifted."""
    if found[0].how == "directory":
        message = f"{frozen.host} is gone, or another directory is in its place"
    else:
        names = ", ".join(f"{os.fsdecode(one.path)!r} ({one.how})" for one in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        message = f"in {frozen.host}, this has changed since it was frozen: {names}{more}"
    remedies = [remedy for hows, remedy in _REMEDIES.items() if any(one.how in hows for one in found)]
    return HostDrift(
        message,
        hint=f"nothing of the workspace was applied; {', and '.join(remedies)}",
        details={
            "host": os.fspath(frozen.host),
            "paths": [one.to_dict(frozen.host) for one in found],
        },
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at the host found for one operation.

    Attributes:
        drift: What stands in its way.
        info: What is there now, or None for nothing.
        done: Whether the host already is what the operation would make of it.
    """

    drift: tuple[Drift, ...] = ()
    info: os.stat_result | None = None
    done: bool = False


class Check:
    """Compares the host with what a plan expects of it."""

    def __init__(self, frozen: Frozen, manifest: Manifest, places: Places) -> None:
        self._frozen, self._manifest, self._places = frozen, manifest, places

    def of(self, operation: Operation) -> Checked:
        """Looks at one operation's path, its parents, and what goes with a directory that is removed."""
        path, row = operation.path, operation.expected
        try:
            info = self._places.look(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise
            return Checked((Drift(path, "parent"),))
        if self._elsewhere(os.fstat(self._places.directory(parent(path)))) or self._elsewhere(info):
            return Checked((Drift(path, "mount"),))
        if info is None:
            if row is None:
                return Checked()
            return Checked(done=True) if operation.node is None else Checked((Drift(path, "removed"),))
        if row is not None and stat.S_ISDIR(row.mode) and info.st_mode == row.mode:
            if operation.deed == "attributes":
                return Checked(info=info)
            return Checked(tuple(inside(self._manifest, self._places.directory(parent(path)), path)), info)
        if row is not None and self._unchanged(path, row, info):
            return Checked(info=info)
        node = operation.node
        if node is not None and node.kind != "directory" and shows(self._places, path, node):
            return Checked(info=info, done=True)
        return Checked((Drift(path, _appeared(info.st_mode) if row is None else "changed"),))

    def _elsewhere(self, info: os.stat_result | None) -> bool:
        """Whether a directory is on another file system; of files, an overlay tells devices of its layers."""
        return info is not None and stat.S_ISDIR(info.st_mode) and info.st_dev != self._frozen.device

    def _unchanged(self, path: bytes, row: Row, info: os.stat_result) -> bool:
        if row.matches(info) and not row.racy:
            return True
        if info.st_mode != row.mode or info.st_size != row.size or self._manifest.applied(path) is not None:
            return row.near(info)
        # Touched, linked or written with the same bytes: only what it holds counts.
        node = Stack(self._frozen.layers).find(path)
        return node is not None and shows(self._places, path, node, content_only=True)


def _appeared(mode: int) -> Drifted:
    return "appeared" if stat.S_IFMT(mode) in (*SEEN, stat.S_IFDIR) else "unseen"


def inside(manifest: Manifest, above: int, path: bytes, name: bytes | None = None) -> Iterator[Drift]:
    """Compares everything in a directory with what is expected there.

    Args:
        manifest: What is expected.
        above: The directory that it lies in.
        path: Its path when it was frozen.
        name: What it is called now, unless the same.
    """
    pending = [(path, path.rpartition(b"/")[2] if name is None else name)]
    while pending:
        place, where = pending.pop()
        rows = manifest.inside(place)
        try:
            # A mount, of the same file system too, is no part of the directory that it is in.
            fd = kernel.openat2(
                above, where, os.O_RDONLY | os.O_DIRECTORY, 0, BENEATH | kernel.RESOLVE_NO_XDEV
            )
        except OSError as error:
            yield Drift(place, "mount" if error.errno == errno.EXDEV else "changed")
            continue
        try:
            names = set(map(os.fsencode, os.listdir(fd)))
            for entry in sorted(names | rows.keys()):
                inner, row, info = join(place, entry), rows.get(entry), _status(fd, entry)
                if info is None:
                    if row is not None and in_layers(row):
                        yield Drift(inner, "removed")
                elif row is None:
                    yield Drift(inner, _appeared(info.st_mode))
                elif stat.S_ISDIR(row.mode):
                    pending.append((inner, join(where, entry)))
                elif not in_layers(row):
                    # No box has seen it, so no box can have meant to remove it.
                    yield Drift(inner, "unseen")
                elif not row.near(info):
                    yield Drift(inner, "changed")
        finally:
            os.close(fd)


def _status(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return None


def shows(places: Places, path: bytes, node: Node, *, content_only: bool = False) -> bool:
    """Whether the host has at a path what a node is: kind and content and, unless told otherwise, its attributes."""
    info = places.look(path)
    if info is None or kind_of(info.st_mode) != node.kind:
        return False
    fd, name = places.directory(parent(path)), path.rpartition(b"/")[2]
    if node.kind == "link":
        return os.readlink(name, dir_fd=fd) == node.target()
    if node.kind not in ("file", "directory"):
        return content_only or _same_mode(info, node)
    if node.kind == "file" and info.st_size != node.size:
        return False
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except PermissionError:
        return False  # it could be read when it was frozen
    try:
        if not content_only:
            own = attributes.seen(opened, layer=False)
            if not _same_mode(info, node) or own != node.attributes():
                return False
        if node.kind == "directory":
            return True
        with node.open() as wanted, FileIO(opened, "rb", closefd=False) as host:
            return same_bytes(host, wanted)
    finally:
        os.close(opened)


def _same_mode(info: os.stat_result, node: Node) -> bool:
    return (info.st_mode ^ node.mode) & HOST_BITS == 0
