"""Snapshots as files: one holds the history's lines and every delta of a world, and is refused as a whole if damaged.

A file may come from anybody. Nothing of it is believed before its digests hold, and what it says then is checked like
any other input: a world that names anything outside of the file is none.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from kibo.branch.deltas import Deltas
from kibo.branch.destinations import free_place
from kibo.branch.history import History
from kibo.branch.hostdir.refusing import on_host
from kibo.branch.marks import checked_goal
from kibo.branch.owning import Owner
from kibo.branch.records import BranchRecord, SnapshotRecord
from kibo.branch.worlds import SHARED, InstanceWorld, labels, shared_world, to_json
from kibo.model.errors import ArchiveInvalid, BranchUnknown, FileMissing, InvalidInput
from kibo.model.ids import RandomId
from kibo.runtime.layers.temporary import remove_tree
from kibo.runtime.roots import MOUNTS
from kibo.runtime.shareddirs import DIRECTORY, shareable
from kibo.runtime.trees.archive import MAX_HISTORY_BYTES, Exported, export_deltas, import_deltas
from kibo.runtime.trees.building import flush_directory

_VERSION: Final = 1
#: Seconds for which a snapshot that is being exported stays, whatever happens to the exporter.
_PIN_S: Final = 3600.0
_LAYER: Final = re.compile(r"[0-9a-f]{8,128}")
_BOX: Final = re.compile(r"[A-Za-z0-9:_-]{1,200}")
#: What a name or a label may be at most, in characters.
_MAX_NAME: Final = 1000


class ExportId(RandomId):
    """One export while it lasts: it keeps the snapshot."""

    __slots__ = ()
    prefix = "export_"


@dataclass(frozen=True, slots=True)
class Ids:
    """Whose numbers files on this machine have.

    Attributes:
        first: The number that stands for a box's 0, where a range does; None where all files are the user's own.
        count: Numbers in the range.
        common: The one of them that programs in boxes have.
    """

    first: int | None
    count: int
    common: int

    def reader(self) -> Callable[[int, int], tuple[int, int]] | None:
        """Returns what gives a file from elsewhere its numbers here. A range begins at the same one everywhere."""
        first = self.first
        if first is None:
            return None

        def here(number: int) -> int:
            return number if first <= number < first + self.count else first + self.common

        return lambda user, group: (here(user), here(group))


@dataclass(frozen=True, slots=True)
class Received:
    """What an import made.

    Attributes:
        branch: A root, in a tree of its own.
        labels: Labels of the boxes that going on from it needs.
        digest: Of the file.
    """

    branch: BranchRecord
    labels: tuple[str, ...]
    digest: str


def send(
    history: History, deltas: Deltas, snapshot: SnapshotRecord, world: dict[str, InstanceWorld], to: Path
) -> Exported:
    """Writes a snapshot into a file, which appears whole or not at all.

    Args:
        history: Where it is recorded.
        deltas: Its files.
        snapshot: The snapshot.
        world: Its world.
        to: The file; nothing may be there.

    Raises:
        InvalidInput: Something is there already, or the log is longer than a file holds.
        FileMissing: There is no such directory.
        HostDiskFull: There is no room.
        Denied: This user may not write there.
        SnapshotUnknown: It was collected just now.
    """
    to = free_place(to, "file")
    holder = ExportId.new()
    history.pin(snapshot.id, holder, ttl_s=_PIN_S)
    part = to.with_name(f".{holder}.part")
    try:
        lines = _history(history, snapshot)
        names = sorted({name for each in world.values() for name in each.deltas})
        with on_host(to, outcome="nothing was kept"):
            with open(part, "xb") as out:
                done = export_deltas([(name, deltas.path(name)) for name in names], out, history=lines)
                out.flush()
                os.fsync(out.fileno())
            # By a link, which refuses what has appeared meanwhile.
            os.link(part, to)
            part.unlink()
            flush_directory(to.parent)
    finally:
        part.unlink(missing_ok=True)
        history.unpin(snapshot.id, holder)
    return done


def _history(history: History, snapshot: SnapshotRecord) -> bytes:
    branch = _maker(history, snapshot)
    note = {"kibo_parcel": _VERSION, "goal": branch.goal if branch else ""}
    pieces = [json.dumps(note).encode() + b"\n"]
    size = len(pieces[0])
    for line in history.export(snapshot.id):
        pieces.append(line.encode() + b"\n")
        size += len(pieces[-1])
        if size > MAX_HISTORY_BYTES:
            raise InvalidInput(
                f"the log of snapshot {snapshot.id} is longer than an exported file holds",
                hint="Keep large values in files, and name them in the log.",
                details={"limit_bytes": MAX_HISTORY_BYTES},
            )
    return b"".join(pieces)


def _maker(history: History, snapshot: SnapshotRecord) -> BranchRecord | None:
    try:
        return history.tree(snapshot.branch)[0]
    except BranchUnknown:
        return None  # collected


def receive(
    history: History,
    deltas: Deltas,
    owner: Owner,
    ids: Ids,
    file: Path,
    *,
    name: str = "imported",
    goal: str = "",
) -> Received:
    """Makes a tree of what `send` wrote, here or elsewhere.

    Workspaces come as files of their instances: there is no directory of this host that they could be applied to.

    Args:
        history: Where to record it.
        deltas: Where its files go, under new names.
        owner: Whose they are until the history names them.
        ids: Whose numbers files have here.
        file: The file.
        name: What to call its root.
        goal: What the tree is for; by default what the exported one was for.

    Raises:
        ArchiveInvalid: It is damaged, cut short, or none. Nothing was imported.
        FileMissing: There is no such file.
        HostDiskFull: There is no room. Nothing was imported.
    """
    made: dict[str, Path] = {}

    def place(exported: str) -> Path:
        made[exported] = deltas.path(owner.new())
        return made[exported]

    try:
        with _opened(file) as source:
            found = import_deltas(source, deltas.home, place, owners=ids.reader())
        note, first, size = _note(found.history)
        world = _world(first, {exported: path.name for exported, path in made.items()})
        _check_places(deltas, world)
        lines = _lines(found.history, size)
        branch = history.import_snapshot(lines, world=to_json(world), goal=goal or note, name=name)
    except BaseException as error:
        for path in made.values():
            remove_tree(path)
        if isinstance(error, ArchiveInvalid):
            error.details.pop("deltas", None)  # those are removed
        raise
    return Received(branch, labels(world), found.digest)


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except FileNotFoundError:
        raise FileMissing(
            f"there is no file {file}", hint="Is its name right?", details={"path": str(file)}
        ) from None
    except IsADirectoryError:
        raise InvalidInput(
            f"{file} is a directory", hint="Name a file.", details={"path": str(file)}
        ) from None


def _note(section: bytes) -> tuple[str, str, int]:
    """Returns the goal, the history's first line, and where that begins."""
    try:
        lines = io.BytesIO(section)
        note = json.loads(lines.readline().decode())
        if note["kibo_parcel"] != _VERSION:
            raise ValueError("another version")
        goal = checked_goal(note["goal"])
        start = lines.tell()
        return goal, lines.readline().decode(), start
    except (InvalidInput, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchiveInvalid(
            "it holds no snapshot of this version", hint="Give a file that `kibo snapshot export` wrote."
        ) from error


def _lines(section: bytes, start: int) -> Iterator[str]:
    """Yields the history's lines one by one: of short ones there may be as many as a section has bytes."""
    lines = io.BytesIO(section)
    lines.seek(start)
    for line in lines:
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ArchiveInvalid("its history is no text") from error


def _world(first: str, deltas: dict[str, str]) -> dict[str, InstanceWorld]:
    """Reads the world of the first line, with the names that its deltas have here."""
    try:
        instances: Any = (json.loads(first)["world"] or {}).get("instances") or {}
        return {
            _name(name): shared_world([deltas[layer] for layer in each["deltas"]])
            if name == SHARED
            else _instance(each, deltas)
            for name, each in instances.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveInvalid(f"its world is malformed: {error}") from error


def _instance(each: Any, deltas: dict[str, str]) -> InstanceWorld:
    turns, layers = each["turns"], each["layers"]
    if type(turns) is not int or turns < 0 or not _BOX.fullmatch(each["box"]):
        raise ValueError("an instance without a box")
    if not all(_LAYER.fullmatch(layer) for layer in layers):
        raise ValueError("a layer that cannot be")
    chain = tuple(deltas[name] for name in each["deltas"])
    shared = tuple(each.get("shared", ()))
    if not all(isinstance(name, str) and shareable(name) for name in shared):
        raise ValueError("a shared directory that cannot be")
    return InstanceWorld(each["box"], _name(each["label"]), tuple(layers), chain, turns, shared=shared)


def _check_places(deltas: Deltas, world: dict[str, InstanceWorld]) -> None:
    """Refuses what no box can have made: something else than a directory where every box has something mounted."""
    for name, each in world.items():
        mounts = (*MOUNTS, *((DIRECTORY,) if name == SHARED or each.shared else ()))
        for tree in (deltas.path(delta) / "u" for delta in each.deltas):
            try:
                _check_directories(tree, mounts, name == SHARED)
            except OSError as error:
                raise ArchiveInvalid(f"what {name} has where boxes have mounts is closed to them") from error


def _check_directories(tree: Path, names: tuple[str, ...], all_shared: bool) -> None:
    for place in tree.iterdir() if tree.is_dir() else ():
        if place.name not in names:
            continue
        for each in (place, *(place.iterdir() if all_shared and _is_directory(place) else ())):
            if not _is_directory(each):
                raise ArchiveInvalid(f"what a box would have at /{each.relative_to(tree)} is no directory")


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _MAX_NAME:
        raise ValueError(f"a name that is none: {value!r}")
    return value
