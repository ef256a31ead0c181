"""A resolver for `Branch.merge` that merges SQLite databases row by row. What it cannot merge stays a conflict."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.merge_sqlite.database import MAGIC, MAX_BYTES, SIDECARS, Refused
from examples.merge_sqlite.merging import merge_databases
from examples.merge_sqlite.rows import Clash
from kibo.runtime.trees.conflict import KEEP, Conflict, Resolution, Resolver
from kibo.runtime.trees.stack import Node

#: A rollback journal that holds no transaction begins with zeros, in SQLite's persistent mode.
_NO_TRANSACTION: Final = bytes(8)
_UNFINISHED: Final = (
    "one side changed the database and the other has a log beside it: close its connections, or "
    "PRAGMA wal_checkpoint(TRUNCATE), in each branch; then merge"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """Why a database stayed in conflict.

    Attributes:
        reason: In words.
        clashes: The rows that both sides changed; empty where it was not looked at row by row.
    """

    reason: str
    clashes: tuple[Clash, ...] = ()


class DatabaseMerger:
    """Merges what both sides did to a database. For one merge after the other, not for two at once.

    Args:
        otherwise: Asked about what is no database; without one that stays in conflict.

    Attributes:
        merged: Paths of the databases that it has merged.
        kept: Why each of the others is still in conflict, by path.
    """

    def __init__(self, otherwise: Resolver | None = None) -> None:
        self._otherwise = otherwise
        self.merged: list[str] = []
        self.kept: dict[str, Kept] = {}

    def __call__(self, conflict: Conflict) -> Resolution:
        """Decides one conflict."""
        ours, theirs = conflict.ours, conflict.theirs
        if conflict.kind == "together":
            self.kept[os.fsdecode(conflict.path)] = Kept(_UNFINISHED)
            return KEEP
        if conflict.kind not in ("content", "added") or not (_is_database(ours) and _is_database(theirs)):
            return KEEP if self._otherwise is None else self._otherwise(conflict)
        name = os.fsdecode(conflict.path)
        try:
            clashes, content = self._merge(conflict)
        except Refused as error:
            self.kept[name] = Kept(f"{name} {error}")
            return KEEP
        if clashes:
            self.kept[name] = Kept(f"{name} has rows that cannot be joined", tuple(clashes))
            return KEEP
        self.merged.append(name)
        return Resolution.write(content)

    def _merge(self, conflict: Conflict) -> tuple[list[Clash], bytes]:
        sides = {"base": conflict.base, "ours": conflict.ours, "theirs": conflict.theirs}
        modes = [None if node is None else node.mode for node in sides.values()]
        if modes[1] != modes[2] and modes[0] not in modes[1:]:
            raise Refused("has another mode on each side")
        with tempfile.TemporaryDirectory(prefix="merge-") as place:
            paths = {name: _copied(node, Path(place) / name) for name, node in sides.items()}
            ours, theirs = paths["ours"], paths["theirs"]
            assert ours is not None
            assert theirs is not None
            into = Path(place) / "merged"
            clashes = merge_databases(paths["base"], ours, theirs, into)
            return clashes, b"" if clashes else into.read_bytes()


def _is_database(node: Node | None) -> bool:
    if node is None or node.kind != "file":
        return False
    with node.open() as file:
        return file.read(len(MAGIC)) == MAGIC


def _copied(node: Node | None, to: Path) -> Path | None:
    """Copies one version of a database to where nothing is beside it.

    Raises:
        Refused: It is no database, too large, or its newest contents are still in a log.
    """
    if node is None:
        return None
    if not _is_database(node):
        raise Refused("was no database before")
    if node.size > MAX_BYTES:
        raise Refused(f"has {node.size:,} bytes; at most {MAX_BYTES:,} are merged")
    for end in SIDECARS:
        beside = node.stack.find(node.path + end.encode())
        if beside is not None and _holds_something(beside):
            raise Refused(f"has a log beside it, {to.name}'s {end}, that has not been brought into it")
    with node.open() as source, to.open("wb") as target:
        shutil.copyfileobj(source, target)
    return to


def _holds_something(log: Node) -> bool:
    if log.kind != "file":
        return True
    with log.open() as file:
        return file.read(len(_NO_TRANSACTION)) not in (b"", _NO_TRANSACTION)
