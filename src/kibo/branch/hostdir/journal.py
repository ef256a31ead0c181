"""The record of one apply, on the disk before the step that it describes.

``plan.json`` is written before anything is staged, ``staged.json`` once all of it is on the disk, and is the moment
from which the apply will happen; it is called ``done`` once every rename is on the disk. A journal lies in the state
directory.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from kibo.branch.hostdir.frozen import workspaces
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.runtime.trees.building import flush_directory

#: What temporary names on the host begin with.
HIDDEN: Final = b".kibo-apply-"


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one version of a path from another, and a rename does not change."""

    dev: int
    ino: int
    mode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> Identity:
        """Reads it from a status; of a directory without what changes with its entries, of a FIFO with its use."""
        if stat.S_ISDIR(info.st_mode):
            return cls(info.st_dev, info.st_ino, stat.S_IFDIR, 0, 0)
        if stat.S_ISFIFO(info.st_mode):
            return cls(info.st_dev, info.st_ino, info.st_mode, 0, 0)
        return cls(info.st_dev, info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns)

    def same_file(self, other: Identity | None) -> bool:
        """Whether both are one inode, perhaps written in between."""
        return other is not None and (self.dev, self.ino) == (other.dev, other.ino)


@dataclass(slots=True)
class Step:
    """One operation as the journal keeps it.

    Attributes:
        path: Relative to the host directory, as text with escaped bytes.
        temporary: The name beside it that holds what is new before, and what is old after.
        old: What was there, or None.
        new: What was staged, or None; filled in when it is.
        look: For a step that changes only attributes: old mode, old attributes, new mode, new attributes (in hex).
    """

    path: str
    temporary: str
    old: Identity | None
    new: Identity | None = None
    look: tuple[int, dict[str, str], int, dict[str, str]] | None = None

    @property
    def place(self) -> bytes:
        """The path as bytes."""
        return os.fsencode(self.path)

    @property
    def hidden(self) -> bytes:
        """The temporary name as bytes."""
        return os.fsencode(self.temporary)

    @property
    def second(self) -> bytes:
        """A second temporary name, where the file system cannot exchange two."""
        return self.hidden + b"o"

    @classmethod
    def read(cls, note: dict[str, Any]) -> Step:
        """Makes one from what `asdict` gave."""
        old, new = (None if note[key] is None else Identity(**note[key]) for key in ("old", "new"))
        look = None if note["look"] is None else tuple(note["look"])
        return cls(note["path"], note["temporary"], old, new, look)


@dataclass(slots=True)
class Journal:
    """One apply's record.

    Attributes:
        directory: Where it lies.
        host: The host directory.
        device: Its ``st_dev``.
        inode: Its ``st_ino``.
        frozen: The id of the freeze.
        steps: In the order in which they are done.
    """

    directory: Path
    host: str
    device: int
    inode: int
    frozen: str
    steps: list[Step]

    @property
    def staged(self) -> bool:
        """Whether the apply will happen."""
        return (self.directory / "staged.json").exists()

    @property
    def done(self) -> bool:
        """Whether it has happened."""
        return (self.directory / "done").exists()

    def begin(self) -> None:
        """Writes what will be staged where. The journal appears with that in it."""
        entry = TemporaryEntry.create(self._home, "apply")
        try:
            made = entry.path / "journal"
            made.mkdir(mode=0o700)
            self._write(made, "plan.json")
            os.rename(made, self.directory)
            flush_directory(self.directory.parent)
        finally:
            entry.remove()

    def commit(self) -> None:
        """Writes that everything is staged: from here on it happens."""
        self._write(self.directory, "staged.json")

    def cancel(self) -> None:
        """Writes that it will not happen after all. Needs no room on the disk."""
        os.unlink(self.directory / "staged.json")
        flush_directory(self.directory)

    def finish(self) -> None:
        """Writes that it has happened. Needs no room on the disk."""
        os.rename(self.directory / "staged.json", self.directory / "done")
        flush_directory(self.directory)

    def remove(self) -> None:
        """Forgets it, by one rename: no part of it may be found without the others."""
        entry = TemporaryEntry.create(self._home, "apply")
        try:
            os.rename(self.directory, entry.path / "journal")
            flush_directory(self.directory.parent)
        finally:
            entry.remove()

    @property
    def _home(self) -> Path:
        return self.directory.parents[2]

    def _write(self, directory: Path, name: str) -> None:
        note = asdict(self)
        del note["directory"]
        path = directory / (name + ".new")
        with open(path, "w") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, directory / name)
        flush_directory(directory)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Reads one, or returns None where it has just ended."""
        for name in ("done", "staged.json", "plan.json"):
            try:
                note = json.loads((directory / name).read_bytes())
            except FileNotFoundError:
                continue
            note["steps"] = [Step.read(step) for step in note["steps"]]
            return cls(directory, **note)
        return None


def journals(home: Path) -> Iterator[Path]:
    """Yields the directories of the applies that have not ended."""
    try:
        yield from sorted((workspaces(home) / "applies").iterdir())
    except FileNotFoundError:
        return


def lock_path(home: Path, device: int, inode: int) -> Path:
    """Returns the lock that keeps two applies to one host directory apart."""
    return home / "locks" / f"apply-{device:x}-{inode:x}.host"
