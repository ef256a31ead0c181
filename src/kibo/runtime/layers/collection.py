"""Garbage collection of layers that no process uses and no recent build asked for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from kibo.runtime.layers.temporary import TemporaryEntry, sweep
from kibo.store.locking import try_lock


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did.

    Attributes:
        layers: Digests of the layers that were removed.
        freed_bytes: Sum of their files' sizes; hard links between layers make the true number smaller.
        kept: How many layers stay.
        swept: Abandoned temporary entries that were removed.
    """

    layers: tuple[str, ...]
    freed_bytes: int
    kept: int
    swept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Collecting:
    """How far a collection is.

    Attributes:
        done: How many layers it has looked at, and removed where nobody wants them.
        total: How many there are.
    """

    done: int
    total: int


def collect(
    home: Path,
    *,
    unused_s: float = 7 * 86_400.0,
    keep: Collection[str] = (),
    dry: bool = False,
    progress: Callable[[Collecting], None] | None = None,
) -> Collected:
    """Removes every layer that is neither pinned by a process, nor named in ``keep``, nor recently used.

    Args:
        home: The state directory.
        unused_s: How long ago, in seconds, a key must have been used last for its layers to go. 0 takes all.
        keep: Digests that stay whatever their age.
        dry: Whether only to tell what would go.
        progress: Called before each layer.

    Returns:
        What was, or would be, removed.

    Raises:
        OSError: A layer belongs to ids that this process has no power over; run it in the builder then.
    """
    swept = () if dry else tuple(sweep(home))
    wanted = {digest.removeprefix("b2:") for digest in keep}
    deadline = time.time() - unused_s
    for key in (home / "keys").iterdir():
        try:
            recent = key.stat().st_mtime >= deadline and unused_s > 0
            if recent:
                wanted |= {digest.removeprefix("b2:") for digest in json.loads(key.read_bytes())["layers"]}
            elif not dry:
                key.unlink()
        except FileNotFoundError:
            continue  # another collection was faster
    removed, freed, kept = [], 0, 0
    layers = sorted((home / "layers").iterdir())
    for done, directory in enumerate(layers):
        if progress is not None:
            progress(Collecting(done, len(layers)))
        size = None if directory.name in wanted else _remove(home, directory, dry=dry)
        if size is None:
            kept += 1
        else:
            removed.append(f"b2:{directory.name}")
            freed += size
    return Collected(tuple(removed), freed, kept, swept)


def _remove(home: Path, directory: Path, *, dry: bool) -> int | None:
    """Removes one layer unless a process pins it. Returns its size in bytes, or None when it stays."""
    lock_path = home / "locks" / f"{directory.name}.layer"
    lock_fd = try_lock(lock_path)
    if lock_fd is None:
        return None
    try:
        size = int(json.loads((directory / "meta.json").read_bytes())["size_bytes"])
        if not dry:
            # Out of the way by one rename first: half a layer must never be found under its name.
            entry = TemporaryEntry.create(home, "collect")
            os.rename(directory, entry.path / "layer")
            entry.remove()
        return size
    except FileNotFoundError:
        return None
    finally:
        lock_path.unlink(missing_ok=True)
        os.close(lock_fd)
