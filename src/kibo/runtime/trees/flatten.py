"""Several deltas that lie on each other become one that shows the same. Files are linked, so cost is in names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kibo.runtime.trees.building import building
from kibo.runtime.trees.stack import Node, Stack, join
from kibo.runtime.trees.writer import DeltaWriter

#: The trees of one delta: the root's, and that of ``/usr`` where a box may write there. Each has a work directory.
PARTS: Final = (("u", "w"), ("usr-u", "usr-w"))


def flatten(deltas: Sequence[Path], into: Path, home: Path, *, flush: bool = True) -> int:
    """Makes one delta of several.

    Args:
        deltas: Directories ``{u,w[,usr-u,usr-w]}`` of sealed deltas that lie on each other, the lowest first.
        into: Where the new one goes; appears by one rename, on the state directory's file system.
        home: The state directory.
        flush: Whether to wait for the disk.

    Returns:
        How many entries it has.

    Raises:
        HostDiskFull: There is no room for the names.
        WorkspaceUnreadable, PathTooLong: A delta holds what this user cannot read, or what lies too deep.
    """
    written = 0
    with building(into, home, "flatten", flush=flush) as made:
        for part, work in PARTS:
            trees = [delta / part for delta in deltas if (delta / part).is_dir()]
            if trees:
                (made / part).mkdir(mode=0o755)
                (made / work).mkdir(mode=0o755)
                written += flatten_trees(trees, made / part)
    return written


def flatten_trees(trees: Sequence[Path], into: Path) -> int:
    """Writes one tree that shows, over anything, what the given ones show over it. Returns its entries.

    Args:
        trees: Upper layers' directories, the lowest first.
        into: An empty directory.
    """
    with Stack(trees) as stack:
        flat = _Flat(stack)
        with DeltaWriter(into, flat.like) as writer:
            flat.write(writer)
            return writer.written


class _Flat:
    """Walks deltas without what is below them: there, "nothing" and "hides what is below" are two things."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def like(self, path: bytes) -> Node | None:
        return self._stack.root if not path else None

    def write(self, writer: DeltaWriter) -> None:
        root = self._stack.root
        pending = [(root, False, iter(sorted(self._stack.names(b"", root.layers))))]
        while pending:
            directory, opaque, names = pending[-1]
            name = next(names, None)
            if name is None:
                pending.pop()
                continue
            path = join(directory.path, name)
            node = self._stack.see(path, directory.layers)
            if node is None:
                if not opaque:
                    writer.whiteout(path)
            elif node.kind == "directory":
                hides = self._hides(path, node, directory.layers)
                writer.directory(node, opaque=hides)
                pending.append((node, hides or opaque, iter(sorted(self._stack.names(path, node.layers)))))
            else:
                writer.copy(node)

    def _hides(self, path: bytes, node: Node, layers: Sequence[int]) -> bool:
        """Whether a directory shows nothing of what is below all deltas: it is opaque, or lies over something else."""
        if self._stack.mark(node.layers[-1], path) == b"y":
            return True
        below = layers[layers.index(node.layers[-1]) + 1 :]
        # The look-up ended at this layer although there are more: at the next one that has the name, something
        # other than a directory stopped it.
        return any(_has(self._stack, layer, path) for layer in below)


def _has(stack: Stack, layer: int, path: bytes) -> bool:
    try:
        os.lstat(path, dir_fd=stack.descriptors[layer])
    except FileNotFoundError:
        return False
    return True
