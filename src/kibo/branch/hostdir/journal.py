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
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final, Self

from kibo.branch.hostdir.frozen import FrozenId, workspaces
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.runtime.trees.building import flush_directory
from kibo.runtime.trees.stack import order

#: What temporary names on the host begin with.
HIDDEN: Final = b".kibo-apply-"


class UnreadableJournal(Exception):
    """A journal is none: damaged, or written by another version. Nothing of it may be believed."""


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

    @classmethod
    def read(cls, note: Any) -> Identity | None:
        """Makes one from what `asdict` gave, or None from None."""
        found = None if note is None else cls(**note)
        if found is not None and not all(type(value) is int for value in astuple(found)):
            raise ValueError(f"no identity of a file: {note}")
        return found

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
        """Makes one from what `asdict` gave. Its names lead to nothing but places in the host directory."""
        old, new = Identity.read(note["old"]), Identity.read(note["new"])
        step = cls(note["path"], note["temporary"], old, new, _look(note["look"]))
        if not _inside(step.place) or not step.hidden.startswith(HIDDEN) or not _inside(step.hidden, depth=1):
            raise ValueError(f"no step in a directory: {step.path!r}, {step.temporary!r}")
        if step.look is not None and old is None:
            raise ValueError(f"the look of nothing: {step.path!r}")
        return step


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
        """Reads one, or returns None where it has just ended.

        Raises:
            UnreadableJournal: It is none.
        """
        try:
            for name in ("done", "staged.json", "plan.json"):
                try:
                    return cls._of(directory, json.loads((directory / name).read_bytes()))
                except FileNotFoundError:
                    continue
            if any(directory.iterdir()):
                raise ValueError("it has no record")
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise UnreadableJournal(f"{type(error).__name__}: {error}") from error
        return None

    @classmethod
    def _of(cls, directory: Path, note: dict[str, Any]) -> Self:
        made = cls(directory, **note | {"steps": [Step.read(step) for step in note["steps"]]})
        numbers = type(made.device) is int and type(made.inode) is int
        if not numbers or not os.path.isabs(made.host) or "\0" in made.host:
            raise ValueError("it names no directory")
        FrozenId.parse(made.frozen)
        return made


def _inside(path: bytes, depth: int | None = None) -> bool:
    """Whether a path stays below where it begins; and, if asked, whether it is that deep."""
    parts = order(path)
    lead_on = all(part not in (b"", b".", b"..") and b"\0" not in part for part in parts)
    return bool(parts) and lead_on and depth in (None, len(parts))


def _look(note: Any) -> tuple[int, dict[str, str], int, dict[str, str]] | None:
    if note is None:
        return None
    old_mode, old, new_mode, new = note
    for mode, own in ((old_mode, old), (new_mode, new)):
        if type(mode) is not int or mode & ~0o7777:
            raise ValueError(f"no mode: {mode}")
        for key, value in own.items():
            if not key.startswith("user.") or bytes.fromhex(value).hex() != value:
                raise ValueError(f"no attribute: {key!r}")
    return old_mode, old, new_mode, new


def journals(home: Path) -> Iterator[Path]:
    """Yields the directories of the applies that have not ended."""
    try:
        yield from sorted((workspaces(home) / "applies").iterdir())
    except FileNotFoundError:
        return


def lock_path(home: Path, device: int, inode: int) -> Path:
    """Returns the lock that keeps two applies to one host directory apart."""
    return home / "locks" / f"apply-{device:x}-{inode:x}.host"
