"""The kernel's control files, as the adapters use them, and where they are mounted."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple, Protocol


class Files(Protocol):
    """A tree of control files: the kernel's, or in tests one that checks each write as the kernel does."""

    def read(self, path: str) -> str:
        """Reads a whole file."""

    def write(self, path: str, value: str) -> None:
        """Writes a value in one call, as the kernel asks."""

    def make(self, path: str) -> None:
        """Makes a group."""

    def remove(self, path: str) -> None:
        """Removes an empty group."""

    def groups(self, path: str) -> list[str]:
        """Lists the groups directly inside one."""

    def exists(self, path: str) -> bool:
        """Tells whether a file or group is there."""

    def writable(self, path: str) -> bool:
        """Tells whether this process may write a file, or make groups in a group."""

    def open_file(self, path: str) -> int:
        """Opens a file for writing; closed on exec."""

    def open_folder(self, path: str) -> int:
        """Opens a group for CLONE_INTO_CGROUP; closed on exec."""


class KernelFiles:
    """The files themselves."""

    def read(self, path: str) -> str:
        """Reads a whole file."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
            return b"".join(parts).decode()
        finally:
            os.close(fd)

    def write(self, path: str, value: str) -> None:
        """Writes a value in one call."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def make(self, path: str) -> None:
        """Makes a group."""
        os.mkdir(path, 0o755)

    def remove(self, path: str) -> None:
        """Removes an empty group."""
        os.rmdir(path)

    def groups(self, path: str) -> list[str]:
        """Lists the groups directly inside one."""
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def exists(self, path: str) -> bool:
        """Tells whether a file or group is there."""
        return os.path.exists(path)

    def writable(self, path: str) -> bool:
        """Tells whether this process may write there, by its effective ids."""
        mode = os.W_OK | os.X_OK if os.path.isdir(path) else os.W_OK
        return os.access(path, mode, effective_ids=True)

    def open_file(self, path: str) -> int:
        """Opens a file for writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def open_folder(self, path: str) -> int:
        """Opens a group."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Hierarchy(NamedTuple):
    """One mounted hierarchy.

    Attributes:
        point: Where it is mounted.
        own: The group of this process in it, as a path on the file system.
        options: Its mount options: on v1 its controllers are among them.
    """

    point: str
    own: str
    options: frozenset[str]


def hierarchies(files: Files) -> dict[str, Hierarchy]:
    """Finds the mounted hierarchies by controller name; the unified one by ``""``. Source: cgroups(7).

    A group that lies outside what is mounted (a container that sees another's mount) is left out.
    """
    mounts: list[tuple[str, str, str, frozenset[str]]] = []
    for line in files.read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if tail[0] in ("cgroup", "cgroup2"):
            mounts.append((tail[0], fields[3], fields[4], frozenset(tail[2].split(","))))
    found: dict[str, Hierarchy] = {}
    for line in files.read("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            for kind, root, point, options in mounts:
                unified = number == "0" and kind == "cgroup2"
                if not unified and not (kind == "cgroup" and name in options):
                    continue
                own = _beneath(path, root, point)
                if own is not None:
                    found.setdefault(name, Hierarchy(point, own, options))
    return found


def _beneath(path: str, root: str, point: str) -> str | None:
    """Turns a group's path in its hierarchy into one on the file system, where part ``root`` is mounted."""
    if "/.." in path:
        return None
    if root != "/":
        if path != root and not path.startswith(root + "/"):
            return None
        path = path[len(root) :]
    return (point + path).rstrip("/")


def make_group(files: Files, path: str) -> None:
    """Makes a group, and the session's group above it where it is missing or was swept meanwhile."""
    try:
        files.make(path)
    except FileNotFoundError:
        try:
            files.make(os.path.dirname(path))
        except FileExistsError:
            pass  # Another process of the session was quicker.
        files.make(path)


def remove_group(files: Files, path: str) -> bool:
    """Removes a group. Returns False while processes or groups are inside it."""
    try:
        files.remove(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def remove_tree(files: Files, path: str) -> bool:
    """Removes a session's group and those inside it. Returns whether it is gone."""
    try:
        inside = files.groups(path)
    except FileNotFoundError:
        return True
    for name in inside:
        remove_group(files, f"{path}/{name}")
    return remove_group(files, path)


def parse_counters(text: str) -> dict[str, int]:
    """Parses lines of a name and a number, as event files hold them."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
