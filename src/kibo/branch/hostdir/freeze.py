"""Freezes a host directory: boxes see what it was at this moment, and it costs what has changed since the last time.

The first freeze copies everything into one layer (sharing blocks where the file system can); each later one looks at
every path and puts what changed into a layer on top. A host directory is written by others meanwhile: each file and
each directory listing is whole, the tree as a whole is as consistent as its writers leave it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from sqlite3 import DatabaseError

from kibo.branch.hostdir.frozen import (
    PLACE,
    SHOWN_SKIPPED,
    Frozen,
    FrozenId,
    hold,
    index_path,
    is_whole,
    mark_flushed,
    prepare,
    workspaces,
)
from kibo.branch.hostdir.manifest import Manifest, exhausting, is_damage
from kibo.branch.hostdir.opening import open_workspace
from kibo.branch.hostdir.reading import Reading
from kibo.branch.hostdir.repository import warn_of_repository_elsewhere
from kibo.branch.hostdir.scan import Scan
from kibo.branch.rows import this_boot
from kibo.model.errors import NotFound
from kibo.model.ids import DeltaId
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.layers.store import exhausting_disk, flush_file_system
from kibo.runtime.layers.temporary import TemporaryEntry, remove_tree
from kibo.runtime.trees.attributes import OPAQUE
from kibo.runtime.trees.building import flush_directory
from kibo.runtime.trees.flatten import flatten_trees
from kibo.runtime.trees.tiers import to_flatten
from kibo.store.crash import point
from kibo.store.database import open_files


def freeze(
    host_dir: str | os.PathLike[str],
    home: Path,
    *,
    owner: tuple[int, int] | None = None,
    progress: Callable[[Reading], None] | None = None,
    flush: bool = True,
) -> Frozen:
    """Freezes a directory. Any number of processes may do so at once.

    Sockets and devices are left out and named in the result, as is what lies on other devices. Modes, times, ``user.``
    attributes, hard links, holes and FIFOs are kept; owners are not. ``.git`` is a directory like any other.

    Args:
        host_dir: The directory.
        home: The state directory; where it lies inside of ``host_dir`` it is left out.
        owner: User and group ids that everything gets, as numbers of this process's user namespace; needs the right
            to give files away. None for this process's own.
        progress: Called several times a second with how far it is.
        flush: Whether to wait for the disk, so that the freeze survives a power cut.

    Returns:
        The layers, and a manifest that only this freeze has. It is held until its ``hold`` is let go of.

    Raises:
        FileMissing: There is no such directory.
        InvalidInput: It is no directory, or none that can be meant, see `open_workspace`; or the store lies in it.
        WorkspaceUnreadable: It, or something in it, cannot be read. Retry once it can.
        PathTooLong: Something in it lies deeper than layers hold anything.
        WorkspaceChanging: Something in it never kept still. Safe to retry.
        PathTooLong: Directories in it are nested deeper than a path can name.
        HostDiskFull: There is no room for the copies; nothing is kept.
    """
    with exhausting_disk(home):
        prepare_home(home)
        prepare(home)
    host, host_fd = open_workspace(host_dir, home)
    try:
        with exhausting_disk(home), exhausting(home):
            try:
                frozen = _freeze(host, host_fd, home, owner, progress, flush)
            except DatabaseError as error:
                if not is_damage(error):
                    raise
                # What the last freeze noted is damaged somewhere: begin without it.
                index_path(home, host, owner).unlink(missing_ok=True)
                frozen = _freeze(host, host_fd, home, owner, progress, flush)
    finally:
        os.close(host_fd)
    warn_of_repository_elsewhere(host)
    return frozen


def _freeze(
    host: Path,
    host_fd: int,
    home: Path,
    owner: tuple[int, int] | None,
    progress: Callable[[Reading], None] | None,
    flush: bool,
) -> Frozen:
    entry = TemporaryEntry.create(home, "freeze")
    try:
        made, tree = entry.path / "frozen", entry.path / "layer"
        made.mkdir(mode=0o700)
        tree.mkdir(mode=0o755)
        info, own = os.fstat(host_fd), os.stat(home)
        # Held until this one names the layers that they share.
        last = _last(home, host, owner, info)
        manifest = _manifest(made / "manifest.db", last)
        layer_fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            scan = Scan(
                host_fd, layer_fd, manifest, known=last is not None, owner=owner,
                avoid=(own.st_dev, own.st_ino), databases=open_files(), progress=progress,
            )  # fmt: skip
            manifest.begin()
            scan.run()
            manifest.commit()
            skipped = tuple(manifest.skipped(SHOWN_SKIPPED))
        finally:
            os.close(layer_fd)
            manifest.close()
        point("freeze.scanned")
        layers, sizes, new = _layers(home, entry, tree, last, scan.layer_entries)
        frozen = Frozen(
            FrozenId.new(), home, host, info.st_dev, info.st_ino, layers, sizes, owner,
            scan.done.copied, scan.done.copied_bytes, scan.done.entries, skipped, this_boot().boot, hold(made),
        )  # fmt: skip
        frozen.save(made)
        if flush:
            mark_flushed(made)
            flush_file_system(made)
        point("freeze.flushed")
        try:
            _place(frozen, made, new, entry, flush=flush)
        except BaseException:
            if new is not None:
                remove_tree(home / "deltas" / new.name)
            remove_tree(frozen.directory)
            raise
        return frozen
    finally:
        entry.remove()


def _last(home: Path, host: Path, owner: tuple[int, int] | None, info: os.stat_result) -> Frozen | None:
    """Finds the newest freeze of this very directory of which everything is still here, and holds it."""
    try:
        name = FrozenId.parse(index_path(home, host, owner).read_text())
    except (FileNotFoundError, ValueError):
        return None
    directory = workspaces(home) / "frozen" / name
    held = hold(directory)
    if held is None or not is_whole(directory):
        return None
    try:
        found = replace(Frozen.load(home, name), hold=held)
    except NotFound:
        return None  # damaged
    same = (found.device, found.inode) == (info.st_dev, info.st_ino)
    return found if same and all(layer.is_dir() for layer in found.layers) else None


def _manifest(path: Path, last: Frozen | None) -> Manifest:
    if last is None:
        return Manifest(path, create=True)
    with last.manifest() as manifest:
        return manifest.copy(path)


def _layers(
    home: Path, entry: TemporaryEntry, tree: Path, last: Frozen | None, entries: int
) -> tuple[tuple[Path, ...], tuple[int, ...], Path | None]:
    """Puts what a scan filled, if there is anything in it, on top of the last freeze's layers, and keeps them few.

    Returns:
        The layers and their entries, and the new delta, which is not where the last of the layers is said to be yet.
    """
    layers, sizes = ((), ()) if last is None else (last.layers, last.sizes)
    if last is not None and not entries:
        return layers, sizes, None
    kept, sizes = len(layers), (*sizes, entries)
    if run := to_flatten(sizes):
        flat = entry.path / "flat"
        flat.mkdir(mode=0o755)
        kept = run[0]
        sizes = (*sizes[:kept], flatten_trees([*layers[kept:], tree], flat))
        tree = flat
    new = _delta(entry, tree, lowest=not kept)
    return (*layers[:kept], home / "deltas" / new.name / "u" / PLACE), sizes, new


def _delta(entry: TemporaryEntry, tree: Path, *, lowest: bool) -> Path:
    """Makes a delta of a finished tree: what a box sees at `PLACE`, and nothing else there."""
    made = entry.path / DeltaId.new()
    place = made / "u"
    place.mkdir(mode=0o755, parents=True)
    os.rename(tree, place / PLACE)
    if lowest:
        os.setxattr(place / PLACE, OPAQUE, b"y")
    return made


def _place(frozen: Frozen, made: Path, new: Path | None, entry: TemporaryEntry, *, flush: bool) -> None:
    """Gives a freeze its name, then its layer, and then makes it the one that the next begins from."""
    deltas = frozen.home / "deltas"
    os.rename(made, frozen.directory)
    point("freeze.recorded")
    if new is not None:
        os.rename(new, deltas / new.name)
        point("freeze.layered")
    if flush:
        flush_directory(frozen.directory.parent)
        flush_directory(deltas)
    _remember(frozen, entry)
    point("freeze.remembered")


def _remember(frozen: Frozen, entry: TemporaryEntry) -> None:
    """Makes this the freeze that the next one starts from. Of two at once either will do."""
    note = entry.path / "index"
    note.write_text(frozen.id)
    os.replace(note, index_path(frozen.home, frozen.host, frozen.owner))
