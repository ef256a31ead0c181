"""Layers on the local disk, addressed by digest, and the index of which inputs they came from.

``layers/<hex>/fs`` is a layer's tree, ``layers/<hex>/meta.json`` what is known about it, ``keys/<key>`` names the
layers that one build step's inputs gave. A layer appears by one rename of a finished tree, so that it is there
entirely or not at all; a key appears after its layers.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kibo.model.errors import HostDiskFull
from kibo.model.ids import LayerDigest
from kibo.runtime import kernel
from kibo.runtime.layers.digest import TreeSummary, digest_tree
from kibo.runtime.layers.normalise import Cleaning, normalise
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.store.flushing import flush
from kibo.store.locking import try_lock


@dataclass(frozen=True, slots=True)
class Layer:
    """An immutable file delta on this machine.

    Attributes:
        digest: Its name.
        path: The directory that holds its tree, in the form that overlayfs takes with ``userxattr``.
    """

    digest: LayerDigest
    path: Path


@dataclass(frozen=True, slots=True)
class Built:
    """What one build step's inputs gave.

    Attributes:
        layers: Lowest first; a pulled image has several.
        details: What the step resolved (names, versions, hashes) or read (an image's settings), as JSON values.
    """

    layers: tuple[Layer, ...]
    details: dict[str, Any] = field(default_factory=dict)


class LayerStore:
    """The layers below one state directory. Any number of processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def layer(self, digest: str) -> Layer:
        """Names where a layer is, or would be. No I/O."""
        name = digest.removeprefix(LayerDigest.prefix)
        return Layer(LayerDigest(LayerDigest.prefix + name), self.home / "layers" / name / "fs")

    def has(self, digest: str) -> bool:
        """Whether the layer is here. One stat."""
        return os.path.isdir(self.layer(digest).path)

    def find(self, key: str) -> Built | None:
        """Returns what a step's inputs gave, when all of it is still here; marks it as used now. About 30 us."""
        path = self.home / "keys" / key
        try:
            record = json.loads(path.read_bytes())
            os.utime(path)
        except FileNotFoundError:
            return None
        layers = tuple(self.layer(digest) for digest in record["layers"])
        if not all(os.path.isdir(layer.path) for layer in layers):
            return None
        return Built(layers, record["details"])

    def record(self, key: str, built: Built) -> None:
        """Remembers what a step's inputs gave. Replaces an older record at once, also under power loss."""
        with exhausting_disk(self.home):
            entry = TemporaryEntry.create(self.home, "key")
            try:
                text = json.dumps(
                    {"layers": [layer.digest for layer in built.layers], "details": built.details}
                )
                path = entry.path / "record"
                path.write_text(text)
                flush(path)
                os.replace(path, self.home / "keys" / key)
            finally:
                entry.remove()

    def seal(
        self,
        entry: TemporaryEntry,
        tree: Path,
        *,
        inside: Callable[[int], int] = lambda number: number,
        cleaning: Cleaning = "packages",
        flush: bool = True,
        **facts: object,
    ) -> Layer:
        """Turns a finished tree into a layer: normalises, names, flushes and renames it. The tree is gone after.

        Args:
            entry: The work in progress that holds ``tree``.
            tree: A directory on the state directory's file system that no process writes any more.
            inside: Gives the id that a box sees for an id on disk.
            cleaning: What to remove of what the build left behind.
            flush: Whether to wait for the disk, so that the layer survives power loss.
            facts: What to note in ``meta.json``.

        Raises:
            HostDiskFull: The state directory's file system is full. Retry after making room.
            OSError: The tree cannot be read.
        """
        with exhausting_disk(self.home):
            normalise(tree, cleaning)
            summary = digest_tree(tree, inside)
            layer = self.layer(summary.digest)
            if os.path.isdir(layer.path):
                return layer
            finished = entry.path / "sealed"
            finished.mkdir(mode=0o755)
            _write_meta(finished / "meta.json", summary, facts)
            os.rename(tree, finished / "fs")
            if flush:
                flush_file_system(finished)
            try:
                os.rename(finished, layer.path.parent)
            except OSError as error:
                # Another process sealed the same content first; its copy is as good.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                os.rename(finished, entry.path / "duplicate")
            return layer

    def size_bytes(self, digest: str) -> int:
        """Returns the sum of a layer's file sizes, from its note."""
        return int(json.loads((self.layer(digest).path.parent / "meta.json").read_bytes())["size_bytes"])


def _write_meta(path: Path, summary: TreeSummary, facts: dict[str, object]) -> None:
    note = {"digest": summary.digest, "entries": summary.entries, "size_bytes": summary.size_bytes, **facts}
    path.write_text(json.dumps(note))


def flush_file_system(path: Path) -> None:
    """Waits until everything written to the path's file system is on the disk, syncfs(2).

    One call where a tree of ten thousand files would take as many.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)


class exhausting_disk:
    """Turns "no space left" inside a block into the error that says whose disk is full."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> None:
        """Nothing to do before the block."""

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Translates ENOSPC and EDQUOT; lets everything else through."""
        if isinstance(error, OSError) and _says_full(error):
            raise disk_full(self._home) from error


def _says_full(error: OSError) -> bool:
    # A copied tree's error is a list of texts.
    texts = [f"[Errno {number}]" for number in (errno.ENOSPC, errno.EDQUOT)]
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or (
        error.errno is None and any(text in str(error) for text in texts)
    )


def disk_full(home: Path) -> HostDiskFull:
    """Makes the error for a full state directory."""
    return HostDiskFull(
        f"the disk that holds {home} is full",
        hint="Run `kibo gc` to remove layers that nothing uses, or point KIBO_HOME at a larger disk",
        details={"path": str(home)},
    )


_pins: dict[str, int] = {}


def pin(home: Path, layers: Iterable[Layer]) -> None:
    """Keeps layers from being collected for as long as this process lives. A dictionary look-up when they are."""
    for layer in layers:
        name = os.fspath(layer.path)
        if name not in _pins:
            fd = try_lock(home / "locks" / f"{layer.path.parent.name}.layer", shared=True)
            if fd is not None:  # None: being collected at this moment; the caller's next look finds it gone
                _pins[name] = fd
