"""A stack of overlay layers, read as overlayfs shows it, without a mount.

Every call goes through the descriptor of a layer's root and a path that was walked down from there, so that a link in
a layer leads nowhere; paths are bounded by `MAX_TREE_PATH_BYTES`. What a box has made so deep, or such that an ordinary
user cannot read it, is an error that names it. Layers never change. Source: overlayfs in the kernel's documentation;
redirects and metadata-only copies are off, as in every mount of Kibo's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Final, Literal, Self

from kibo.model.errors import PathTooLong, WorkspaceUnreadable
from kibo.model.limits import MAX_NAME_BYTES, MAX_TREE_PATH_BYTES
from kibo.runtime import kernel
from kibo.runtime.trees import attributes

Kind = Literal["file", "directory", "link", "fifo", "socket", "device"]
#: What names a layer's directory.
AnyPath = str | bytes | os.PathLike[str]

_KINDS: Final[dict[int, Kind]] = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH: Final = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
#: Directories whose layers are remembered between look-ups; a path is looked up again past that.
_REMEMBERED: Final = 4096
#: Of a path that is too long to be kept, what a message shows.
_SHOWN: Final = 80


def kind_of(mode: int) -> Kind:
    """Names what a mode's type bits say."""
    return _KINDS[stat.S_IFMT(mode)]


@dataclass(frozen=True, slots=True)
class Node:
    """One path as a stack shows it.

    Attributes:
        stack: The stack, which must stay open while the node is read.
        layer: The number of the layer that it comes from, 0 the lowest.
        path: Relative to the root, without slashes at its ends; empty for the root.
        info: Its status in that layer.
        layers: Of a directory, the layers whose contents it shows, the highest first.
    """

    stack: Stack
    layer: int
    path: bytes
    info: os.stat_result
    layers: tuple[int, ...] = ()

    @property
    def kind(self) -> Kind:
        """What it is."""
        return kind_of(self.info.st_mode)

    @property
    def mode(self) -> int:
        """Permission bits, with set-id and sticky."""
        return stat.S_IMODE(self.info.st_mode)

    @property
    def size(self) -> int:
        """Bytes of a file, or of a link's target."""
        return self.info.st_size

    def open(self) -> FileIO:
        """Opens a regular file for reading. The caller closes it.

        Raises:
            WorkspaceUnreadable: This user may not read it.
            OSError: It is no regular file.
        """
        return FileIO(self.descriptor(), "rb")

    def descriptor(self) -> int:
        """Opens a file or directory for reading, never through a link. The caller closes the descriptor."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return kernel.openat2(self.stack.descriptors[self.layer], self.path or b".", flags, 0, _BENEATH)
        except PermissionError:
            raise unreadable(self.path) from None
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), self.path) from None

    def read(self) -> bytes:
        """Returns a regular file's whole content."""
        with self.open() as file:
            return file.readall()

    def target(self) -> bytes:
        """Returns where a link points."""
        return os.readlink(self.path, dir_fd=self.stack.descriptors[self.layer])

    def attributes(self) -> dict[str, bytes]:
        """Returns the ``user.`` attributes that programs see; of a link none, which cannot have any."""
        if self.kind == "link":
            return {}
        try:
            return attributes.seen(self.place())
        except PermissionError:
            raise unreadable(self.path) from None

    def place(self) -> bytes:
        """Returns a path that works in this process while the stack is open."""
        return self.stack.place(self.layer, self.path)

    def children(self) -> Iterator[Node]:
        """Yields what a directory shows, in the byte order of names."""
        for name in sorted(self.stack.names(self.path, self.layers)):
            if (child := self.stack.see(join(self.path, name), self.layers)) is not None:
                yield child

    def same_content(self, other: Node) -> bool:
        """Whether both are the same kind of thing with the same bytes or target. Sizes first; cost is two reads."""
        if self.kind != other.kind:
            return False
        if self.kind == "link":
            return self.target() == other.target()
        if self.kind == "device":
            return self.info.st_rdev == other.info.st_rdev
        if self.kind != "file" or _identity(self.info) == _identity(other.info):
            return True
        if self.info.st_size != other.info.st_size:
            return False
        with self.open() as one, other.open() as two:
            return same_bytes(one, two)


def unreadable(path: bytes) -> WorkspaceUnreadable:
    """Makes the error for what a box left with a mode that keeps even its owner, an ordinary user, out."""
    shown = os.fsdecode(path) or "/"
    return WorkspaceUnreadable(
        f"{shown!r}, which a box left, cannot be read by this user",
        hint="in the box, give its owner the right (`chmod u+rwX`), or remove it and make it anew, as has to be done "
        "with a directory that was forked or committed as it is; root may read it",
        details={"path": shown},
    )


def check_length(directory: bytes, names: Iterable[bytes]) -> None:
    """Refuses a directory's names where their paths are longer than layers hold them.

    Raises:
        PathTooLong: One is.
    """
    if len(directory) + 1 + MAX_NAME_BYTES <= MAX_TREE_PATH_BYTES:
        return
    longest = max((join(directory, name) for name in names), key=len, default=b"")
    if len(longest) > MAX_TREE_PATH_BYTES:
        shown = os.fsdecode(longest)
        raise PathTooLong(
            f"{shown[:_SHOWN]!r}... is a path of {len(longest)} bytes; at most {MAX_TREE_PATH_BYTES} can be kept",
            hint="remove it, or move it up: `cd` into its directories and use a relative path",
            details={"path": shown, "bytes": len(longest), "limit": MAX_TREE_PATH_BYTES},
        )


def same_bytes(one: FileIO, two: FileIO) -> bool:
    """Compares two files from where they stand to their ends. What is a hole in both is not read."""
    while True:
        first, second = one.read(_COMPARED_BYTES), two.read(_COMPARED_BYTES)
        if first != second:
            return False
        if not first:
            return True
        if not first.strip(b"\0"):
            _skip_holes(one, two)


def _skip_holes(one: FileIO, two: FileIO) -> None:
    """Moves two files, which stand at the same place, to where the next of them has data, or just before their ends."""
    at = one.tell()
    found = [data for file in (one, two) if (data := _next_data(file, at)) is not None]
    size = min(os.fstat(file.fileno()).st_size for file in (one, two))
    place = min(found, default=max(at, size - 1))
    for file in (one, two):
        file.seek(place)


def _next_data(file: FileIO, at: int) -> int | None:
    try:
        return os.lseek(file.fileno(), at, os.SEEK_DATA)
    except OSError:
        return None  # there is none to its end


_COMPARED_BYTES: Final = 1 << 18


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def join(directory: bytes, name: bytes) -> bytes:
    """Joins a relative path and a name; the root is empty."""
    return b"%b/%b" % (directory, name) if directory else name


def parent(path: bytes) -> bytes:
    """Returns the directory of a relative path; empty for what lies in the root."""
    return path.rpartition(b"/")[0]


def order(path: bytes) -> list[bytes]:
    """Sorts paths so that a directory is followed at once by what is in it."""
    return path.split(b"/") if path else []


class Stack:
    """Layers, the lowest first, of which the higher hide the lower as in an overlay.

    Holds one descriptor a layer until `close`; usable as a context manager. Not for two threads at once.
    """

    def __init__(self, layers: Sequence[AnyPath]) -> None:
        """Opens the layers.

        Args:
            layers: Directories, the lowest first.

        Raises:
            OSError: One is missing or no directory.
        """
        self.layers: tuple[bytes, ...] = tuple(os.fsencode(layer) for layer in layers)
        self.descriptors: list[int] = []
        self._known: dict[bytes, tuple[int, ...]] = {}
        try:
            for layer in self.layers:
                self.descriptors.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    def over(self, deltas: Sequence[AnyPath]) -> Stack:
        """Returns a new stack with more layers on top of these."""
        return Stack([*self.layers, *deltas])

    def close(self) -> None:
        """Closes the descriptors; nodes can no longer be read. Safe to call twice."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Self:
        """Returns the stack."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closes it."""
        self.close()

    def __del__(self) -> None:
        """Closes what nobody closed."""
        self.close()

    @property
    def root(self) -> Node:
        """The root directory, of which every layer is a part."""
        top = len(self.layers) - 1
        info = os.stat(b".", dir_fd=self.descriptors[top])
        return Node(self, top, b"", info, tuple(range(top, -1, -1)))

    def place(self, layer: int, path: bytes) -> bytes:
        """Returns a path by which calls that take no descriptor reach into a layer."""
        return b"/proc/self/fd/%d/%b" % (self.descriptors[layer], path)

    def find(self, path: bytes) -> Node | None:
        """Looks a path up, never through a link.

        Args:
            path: Relative to the root.

        Returns:
            What is seen there, or None where nothing is.
        """
        return self.see(path, self.shown(parent(path))) if path else self.root

    def shown(self, path: bytes) -> tuple[int, ...]:
        """Returns the layers that a directory shows, the highest first; none where there is no directory."""
        layers = self._known.get(path)
        if layers is None:
            directory = self.find(path)
            layers = directory.layers if directory is not None else ()
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[path] = layers
        return layers

    def see(self, path: bytes, layers: Sequence[int]) -> Node | None:
        """Looks up a path whose directory comes from ``layers``, the highest first.

        Raises:
            WorkspaceUnreadable: This user may not look into the directory.
        """
        try:
            return self._see(path, layers)
        except PermissionError:
            raise unreadable(path) from None

    def _see(self, path: bytes, layers: Sequence[int]) -> Node | None:
        first: os.stat_result | None = None
        top, below = -1, []
        for layer in layers:
            try:
                info = os.lstat(path, dir_fd=self.descriptors[layer])
            except FileNotFoundError:
                continue
            if self.is_whiteout(layer, path, info):
                break
            if first is None:
                first, top = info, layer
            if not stat.S_ISDIR(info.st_mode):
                break
            below.append(layer)
            if self.mark(layer, path) == b"y":
                break
        if first is None:
            return None
        return Node(self, top, path, first, tuple(below) if stat.S_ISDIR(first.st_mode) else ())

    def names(self, path: bytes, layers: Sequence[int]) -> set[bytes]:
        """Returns every name that a directory has in any of ``layers``, whiteouts included.

        Raises:
            PathTooLong: One of them lies deeper than layers hold anything.
            WorkspaceUnreadable: This user may not read it.
        """
        found: set[bytes] = set()
        for layer in layers:
            try:
                fd = os.open(path or b".", _DIRECTORY, dir_fd=self.descriptors[layer])
            except PermissionError:
                raise unreadable(path) from None
            try:
                found.update(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)
        check_length(path, found)
        return found

    def mark(self, layer: int, path: bytes) -> bytes:
        """Returns a directory's mark in one layer: ``y`` where it hides what is below, ``x``, or empty."""
        return attributes.read_one(self.place(layer, path), attributes.OPAQUE) or b""

    def is_whiteout(self, layer: int, path: bytes, info: os.stat_result) -> bool:
        """Whether an entry of a layer says that nothing is there: a device 0/0, or an empty file with an attribute."""
        if stat.S_ISCHR(info.st_mode):
            return info.st_rdev == 0
        if not stat.S_ISREG(info.st_mode) or info.st_size:
            return False
        if attributes.read_one(self.place(layer, path), attributes.WHITEOUT) is None:
            return False
        return self.mark(layer, parent(path)) == b"x"
