"""A host directory, frozen: layers that boxes see, and what the host looked like at that moment.

A freeze lies in a directory of its own, which appears before its layers do and goes after them, so that of every layer
that a freeze made something says whose it is. Whoever needs a freeze that no snapshot names yet holds a shared lock on
that directory; who collects takes it for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from sqlite3 import DatabaseError
from typing import Any, Final

from kibo.branch.hostdir.manifest import Manifest, is_damage
from kibo.branch.rows import this_boot
from kibo.model.errors import NotFound
from kibo.model.ids import DeltaId, RandomId
from kibo.store.locking import try_lock_directory

#: How many of the paths that were left out are named; the manifest has all of them.
SHOWN_SKIPPED: Final = 100
#: Where boxes see a workspace, below their root.
PLACE: Final = "work"
#: What a freeze is written down in, and what says that all of it is on the disk.
_RECORD: Final = "frozen.json"
_FLUSHED: Final = "flushed"


class FrozenId(RandomId):
    """One frozen host directory on this machine."""

    __slots__ = ()
    prefix = "frozen_"


class Hold:
    """Keeps a freeze and its layers from being collected until it is let go of, forgotten, or its process has ended.

    Args:
        fd: A descriptor that holds a shared lock on the freeze's directory.
    """

    def __init__(self, fd: int) -> None:
        self._close = weakref.finalize(self, os.close, fd)

    def release(self) -> None:
        """Lets go. Idempotent."""
        self._close()


@dataclass(frozen=True, slots=True)
class Frozen:
    """One freeze. Private to the branch that asked for it: an `apply` moves its manifest on.

    Attributes:
        id: Its name.
        home: The state directory.
        host: The host directory, absolute, without links.
        device: ``st_dev`` of the host directory.
        inode: ``st_ino`` of it.
        layers: Trees of its files, the lowest first: the `PLACE` of sealed deltas, shared with other freezes.
        sizes: Entries of each layer.
        owner: User and group ids that every file in the layers has, or None for their maker's own.
        copied: Files that this freeze had to copy.
        copied_bytes: Their sizes together.
        entries: Files, directories and links.
        skipped: Sockets, FIFOs, devices and mount points that boxes do not see, each with its reason; the first 100.
        boot: The boot of this host in which it was made: in another, what was not flushed may be torn.
        hold: Keeps it until a snapshot names it; None of one that was loaded.
    """

    id: FrozenId
    home: Path
    host: Path
    device: int
    inode: int
    layers: tuple[Path, ...]
    sizes: tuple[int, ...]
    owner: tuple[int, int] | None
    copied: int
    copied_bytes: int
    entries: int
    skipped: tuple[tuple[bytes, str], ...]
    boot: str
    hold: Hold | None = field(default=None, compare=False, repr=False)

    @property
    def directory(self) -> Path:
        """Where its manifest lies."""
        return workspaces(self.home) / "frozen" / self.id

    @property
    def deltas(self) -> tuple[DeltaId, ...]:
        """The sealed deltas that show it to a box, the lowest first."""
        return tuple(DeltaId(layer.parents[1].name) for layer in self.layers)

    def manifest(self) -> Manifest:
        """Opens the manifest; the caller closes it."""
        return Manifest(self.directory / "manifest.db")

    def save(self, directory: Path) -> None:
        """Writes the record into a directory that is being built."""
        note: dict[str, Any] = asdict(replace(self, hold=None)) | {
            "home": None,
            "host": os.fspath(self.host),
            "layers": self.deltas,
            "skipped": None,
        }
        del note["hold"]
        (directory / _RECORD).write_text(json.dumps(note))

    @classmethod
    def load(cls, home: Path, name: str) -> Frozen:
        """Reads a record.

        Raises:
            NotFound: There is no such freeze, it was removed, or it is damaged.
        """
        directory = workspaces(home) / "frozen" / name
        try:
            note = {"boot": ""} | json.loads((directory / _RECORD).read_bytes())
            with Manifest(directory / "manifest.db") as manifest:
                skipped = manifest.skipped(SHOWN_SKIPPED)
            layers = tuple(home / "deltas" / DeltaId.parse(layer) / "u" / PLACE for layer in note["layers"])
            note |= {
                "id": FrozenId.parse(name),
                "home": home,
                "host": Path(note["host"]),
                "layers": layers,
                "sizes": tuple(note["sizes"]),
                "owner": None if note["owner"] is None else tuple(note["owner"]),
                "skipped": tuple(skipped),
            }
            return cls(**note)
        except FileNotFoundError:
            raise _missing(name, f"there is no frozen directory {name}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DatabaseError) as error:
            if isinstance(error, DatabaseError) and not is_damage(error):
                raise
            raise _missing(name, f"the frozen directory {name} is damaged: {error}") from error


def _missing(name: str, message: str) -> NotFound:
    return NotFound(message, hint="freeze the host directory again", details={"id": name})


def hold(directory: Path) -> Hold | None:
    """Holds the freeze in a directory; None where there is none, or it is being collected."""
    fd = try_lock_directory(directory, shared=True)
    return None if fd is None else Hold(fd)


def mark_flushed(directory: Path) -> None:
    """Notes that all of a freeze, whose directory is given, is on the disk. Nothing happens where it was collected."""
    try:
        (directory / _FLUSHED).touch()
    except FileNotFoundError:
        return


def is_whole(directory: Path) -> bool:
    """Tells whether nothing of a freeze was lost: it was flushed, or this host has not stopped since it was made."""
    if (directory / _FLUSHED).exists():
        return True
    try:
        return bool(json.loads((directory / _RECORD).read_bytes())["boot"] == this_boot().boot)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False  # none, torn, or from before this was noted


def layers_of(directory: Path) -> tuple[str, ...]:
    """Returns the names of the layers of the freeze in a directory; none where it is torn or gone."""
    try:
        return tuple(json.loads((directory / _RECORD).read_bytes())["layers"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ()


def indexed(home: Path) -> Iterator[tuple[Path, str, float]]:
    """Yields the files that name the newest freeze of each host directory, the freeze's name, and when it was made."""
    try:
        entries = sorted((workspaces(home) / "index").iterdir())
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            yield entry, entry.read_text(), entry.stat().st_mtime
        except FileNotFoundError:
            continue  # another collection was faster


def workspaces(home: Path) -> Path:
    """Returns where frozen directories lie."""
    return home / "workspaces"


def prepare(home: Path) -> None:
    """Makes the directories. Cheap when they exist."""
    place = workspaces(home)
    for path in (place, *(place / part for part in ("frozen", "index", "applies"))):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def index_path(home: Path, host: Path, owner: tuple[int, int] | None) -> Path:
    """Returns the file that names the newest freeze of a host directory for one owner."""
    name = hashlib.blake2b(os.fsencode(host) + repr(owner).encode(), digest_size=16).hexdigest()
    return workspaces(home) / "index" / name
