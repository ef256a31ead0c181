"""The name of a layer: one hash over everything in it that a box could tell apart.

Each entry gives one line: path, type, mode, owner as the box sees it, size, whole seconds of its time, link target,
device, extended attributes, and the hash of its content; hard links name the first path of their file. Lines are in
the byte order of their paths. The layer's digest is the BLAKE2b-256 of the lines.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kibo.model.ids import LayerDigest

_CHUNK_BYTES: Final = 1 << 20
_CAPABILITY: Final = "security.capability"


@dataclass(frozen=True, slots=True)
class TreeSummary:
    """What a tree comes to.

    Attributes:
        digest: Its name.
        entries: Files, directories and links in it, the root included.
        size_bytes: Sum of its regular files' sizes, hard links once.
    """

    digest: LayerDigest
    entries: int
    size_bytes: int


def digest_tree(root: Path, inside: Callable[[int], int] = lambda number: number) -> TreeSummary:
    """Names the tree at ``root``. Reads every file; about a second for 500 MB.

    Args:
        root: A directory. Its own mode and owner count, its name does not.
        inside: Gives the id that a box sees for an id that the disk holds.

    Raises:
        OSError: The tree cannot be read.
        ValueError: It holds a socket or another thing that a layer cannot keep.
    """
    hasher = hashlib.blake2b(digest_size=32)
    first_paths: dict[int, str] = {}
    entries = size_bytes = 0
    for path, info in _entries(os.fspath(root), ""):
        full = os.path.join(root, path) if path else os.fspath(root)
        fields = [path.encode("utf-8", "surrogateescape").hex(), oct(info.st_mode)]
        fields += [str(inside(info.st_uid)), str(inside(info.st_gid)), str(int(info.st_mtime))]
        fields += _attributes(full, info)
        if stat.S_ISREG(info.st_mode):
            first = first_paths.setdefault(info.st_ino, path) if info.st_nlink > 1 else path
            if first == path:
                size_bytes += info.st_size
                fields += [str(info.st_size), hash_file(full)]
            else:
                fields.append("=" + first.encode("utf-8", "surrogateescape").hex())
        elif stat.S_ISLNK(info.st_mode):
            fields.append(os.readlink(os.fsencode(full)).hex())
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            fields.append(f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}")
        elif not (stat.S_ISDIR(info.st_mode) or stat.S_ISFIFO(info.st_mode)):
            raise ValueError(f"a layer cannot hold the socket {path}")
        entries += 1
        hasher.update(" ".join(fields).encode() + b"\n")
    return TreeSummary(LayerDigest(LayerDigest.prefix + hasher.hexdigest()), entries, size_bytes)


def hash_file(path: str | Path) -> str:
    """Returns the BLAKE2b-256 of a file's content, as hex."""
    hasher = hashlib.blake2b(digest_size=32)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _entries(directory: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the directory and all below it, each directory's entries in the byte order of their names."""
    yield prefix, os.lstat(directory)
    with os.scandir(directory) as found:
        children = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for child in children:
        path = f"{prefix}/{child.name}" if prefix else child.name
        if child.is_dir(follow_symlinks=False):
            yield from _entries(child.path, path)
        else:
            yield path, child.stat(follow_symlinks=False)


def _attributes(path: str, info: os.stat_result) -> list[str]:
    """Lists the extended attributes, sorted. A link's are left out: user attributes cannot be on links."""
    if stat.S_ISLNK(info.st_mode):
        return []
    fields = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = os.getxattr(path, name, follow_symlinks=False)
        if name == _CAPABILITY:
            # Written inside a user namespace it also names that namespace's root by its host id, capabilities(7).
            value = value[4:20]
        fields.append(f"{name}={value.hex()}")
    return fields
