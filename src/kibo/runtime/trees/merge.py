"""Three-way merge of two chains of deltas over one base, into a delta that goes on top of ours.

Both chains' changes are read side by side in order of path, and written as they are decided: memory depends on the
conflicts, not on the changes. Where a path of one side lies in a directory that the other removed or replaced, the
two meet at the directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

from kibo.model.errors import MergeConflict
from kibo.runtime.trees.belonging import parted
from kibo.runtime.trees.building import building
from kibo.runtime.trees.changes import Change, difference
from kibo.runtime.trees.conflict import Conflict, ConflictKind, Resolution, Resolver, asked, text_of
from kibo.runtime.trees.lines import merged
from kibo.runtime.trees.stack import AnyPath, Node, Stack, order
from kibo.runtime.trees.writer import Content, DeltaWriter, Look

T = TypeVar("T")
Side = Literal["ours", "theirs"]
_SHOWN: Final = 5


@dataclass(slots=True)
class Merged:
    """What a merge did.

    Attributes:
        taken: Paths whose version of theirs was taken, in order. A directory stands for what came with it.
        joined: Text files that hold the lines of both sides.
        resolved: Paths that the resolver decided.
        dropped: Sockets and devices of theirs, which no delta keeps.
        entries: Entries of the new delta; 0 where ours already has everything.
    """

    taken: list[bytes] = field(default_factory=list)
    joined: list[bytes] = field(default_factory=list)
    resolved: list[bytes] = field(default_factory=list)
    dropped: list[bytes] = field(default_factory=list)
    entries: int = 0


def merge(
    base: Sequence[AnyPath],
    ours: Sequence[AnyPath],
    theirs: Sequence[AnyPath],
    into: Path,
    home: Path,
    resolver: Resolver | None = None,
    *,
    owners: bool = False,
    flush: bool = True,
) -> Merged:
    """Merges theirs into ours.

    What only one side changed is taken, and what both changed alike; text that both changed is joined line by line
    where the lines do not touch; modes and extended attributes are merged apart from contents. The rest conflicts, and
    so does a database with its log where each side changed one of the two.

    Args:
        base: Layers' trees that both sides lie over, the lowest first.
        ours: Trees of our deltas. The new one goes on top of these.
        theirs: Trees of their deltas, over the same base.
        into: Where the new delta's tree goes; appears by one rename, on the state directory's file system.
        home: The state directory.
        resolver: Called for each conflict, in order of path. Without one, or where it says `KEEP`, the merge fails.
        owners: Whether an owner alone counts as a change; see `changes`.
        flush: Whether to wait for the disk.

    Returns:
        What was done.

    Raises:
        MergeConflict: Something cannot be joined; nothing was written. It carries every conflict.
        HostDiskFull: There is no room; nothing was written.
        WorkspaceUnreadable, PathTooLong: A layer holds what this user cannot read, or what lies too deep.
    """
    with building(into, home, "merge", flush=flush) as made:
        return merge_trees(base, ours, theirs, made, resolver, owners=owners)


def merge_trees(
    base: Sequence[AnyPath],
    ours: Sequence[AnyPath],
    theirs: Sequence[AnyPath],
    into: Path,
    resolver: Resolver | None = None,
    *,
    owners: bool = False,
) -> Merged:
    """Merges into an empty directory that the caller throws away if this raises. See `merge`."""
    work = _Merge(Stack(base), Stack([*base, *ours]), Stack([*base, *theirs]), resolver, owners=owners)
    with DeltaWriter(into, work.like) as writer:
        work.run(writer)
        if work.conflicts:
            raise merge_conflict(
                work.conflicts,
                "merge again with a resolver, or commit with overwrite=True to take one side",
            )
        work.report.entries = writer.written
    return work.report


def merge_conflict(conflicts: list[Conflict], hint: str) -> MergeConflict:
    """The error for what could not be joined, with each conflict; ``hint`` says what can be done."""
    names = ", ".join(repr(each.shown if each.path else each.instance) for each in conflicts[:_SHOWN])
    more = f" and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
    return MergeConflict(
        f"both sides changed {names}{more}",
        conflicts=tuple(conflicts),
        hint=hint,
        details={"paths": [conflict.to_dict() for conflict in conflicts]},
    )


_Pair = tuple[Change | None, Change | None]


class _Merge:
    def __init__(
        self, base: Stack, ours: Stack, theirs: Stack, resolver: Resolver | None, *, owners: bool
    ) -> None:
        self._base, self._ours, self._theirs = base, ours, theirs
        self._resolver, self._owners = resolver, owners
        self.report = Merged()
        self.conflicts: list[Conflict] = []

    def like(self, path: bytes) -> Node | None:
        """Describes a directory above something that is written: ours, unless only theirs still has it."""
        for stack in (self._ours, self._theirs):
            node = stack.find(path)
            if node is not None and node.kind == "directory":
                return node
        return None

    def run(self, writer: DeltaWriter) -> None:
        """Decides every path, and writes it unless a conflict has already made the merge fail."""
        pairs = _Pairs(
            difference(self._base, self._ours, owners=self._owners),
            difference(self._base, self._theirs, owners=self._owners),
        )
        for pair in pairs:
            if pair[1] is not None and pair[1].dropped:
                self.report.dropped.append(pair[1].path)
            # A socket where nothing was is nothing.
            our, their = (None if change is None or change.kind == "dropped" else change for change in pair)
            if our is not None and their is not None:
                self._both(writer, pairs, our, their)
            elif their is not None:
                self._one(writer, pairs, their, "theirs")
            elif our is not None:
                self._one(writer, pairs, our, "ours")

    # One side changed the path itself.

    def _one(self, writer: DeltaWriter, pairs: _Pairs, change: Change, side: Side) -> None:
        if not _closed(change):
            sides = (self._ours, self._theirs) if side == "ours" else (self._theirs, self._ours)
            if parted(change.path, self._base, *sides):
                self._settle(writer, self._conflict(change.path, "together"))
            elif side == "theirs":
                self._take(writer, change)
            return
        # The directory is gone on this side: what the other did inside of it meets it here.
        others = [pair[0] or pair[1] for pair in pairs.inside(change.path)]
        lively = [other for other in others if other is not None and other.after is not None]
        if not lively:
            if side == "theirs":
                self._take(writer, change)
        elif change.after is not None:
            self._settle(writer, self._conflict(change.path, "type"))
        else:
            self._revive(writer, change, lively, side)

    def _take(self, writer: DeltaWriter, change: Change) -> None:
        """Takes a change of theirs that our side knows nothing of."""
        self.report.taken.append(change.path)
        if self.conflicts:
            return
        node = change.after
        if node is None:
            writer.whiteout(change.path)
        elif node.kind == "directory":
            writer.directory(node)
        else:
            writer.copy(node)

    def _revive(self, writer: DeltaWriter, change: Change, lively: list[Change], side: Side) -> None:
        """One side removed a directory in which the other changed something: each such path is a conflict."""
        decided: list[tuple[Conflict, Resolution]] = []
        for other in lively:
            if other.after is not None and other.after.kind == "directory":
                continue  # comes back with what is in it
            conflict = self._conflict(other.path, "deleted")
            if (said := self._ask(conflict)) is not None:
                decided.append((conflict, said))
        if not any(other.after is not None and other.after.kind != "directory" for other in lively):
            conflict = self._conflict(change.path, "deleted")
            if (said := self._ask(conflict)) is not None:
                decided.append((conflict, said))
        if self.conflicts:
            return
        kept = [(conflict, said) for conflict, said in decided if _leaves(conflict, said)]
        if side == "theirs":
            if kept and kept[0][0].path != change.path:
                # Ours has the directory: an opaque one hides it, and holds what is kept.
                node = self._ours.find(change.path)
                assert node is not None
                writer.directory(node, opaque=True)
            elif not kept:
                writer.whiteout(change.path)
        for conflict, said in kept:
            self._write(writer, conflict, said, below=conflict.ours if conflict.path == change.path else None)

    # Both sides changed the path itself.

    def _both(self, writer: DeltaWriter, pairs: _Pairs, our: Change, their: Change) -> None:
        one, two = our.after, their.after
        if one is None or two is None:
            if one is two:
                return
            # What is inside of the side that is left is part of the same conflict.
            list(pairs.inside(our.path))
            self._settle(writer, self._conflict(our.path, "deleted"))
        elif (one.kind == "directory") != (two.kind == "directory"):
            list(pairs.inside(our.path))
            self._settle(writer, self._conflict(our.path, "type"))
        elif one.kind == "directory":
            self._directories(writer, our, one, two)
        else:
            self._files(writer, our, their, one, two)

    def _directories(self, writer: DeltaWriter, our: Change, one: Node, two: Node) -> None:
        """Both sides have a directory there, and changed its look or made it; what is in it comes next."""
        base = our.before if our.before is not None and our.before.kind == "directory" else None
        look = self._look(base, one, two)
        if look is None:
            self._settle(writer, self._conflict(our.path, "attributes"))
        elif look != Look.of(one):
            self.report.taken.append(our.path)
            if not self.conflicts:
                writer.directory(two, look=look)

    def _files(self, writer: DeltaWriter, our: Change, their: Change, one: Node, two: Node) -> None:
        """Both sides have something that is no directory there, and both differ from the base."""
        base = our.before if our.before is not None and our.before.kind == one.kind else None
        look = self._look(base, one, two)
        content: Node | bytes | None = two
        if our.content:
            same = not their.content or one.same_content(two)
            content = one if same else None if base is None else _text(base, one, two)
        if look is None or content is None:
            self._settle(writer, self._conflict(our.path, _why(base, one, two, content)))
        elif isinstance(content, bytes):
            self.report.joined.append(our.path)
            self._join(writer, our.path, content, look, one, two)
        elif content is two or look != Look.of(one):
            self.report.taken.append(our.path)
            if self.conflicts:
                return
            if content.kind != "file" or (content is two and look == Look.of(two)):
                writer.copy(two)
            else:
                self._join(writer, our.path, Path(os.fsdecode(content.place())), look, one, two)

    def _join(
        self, writer: DeltaWriter, path: bytes, data: bytes | Path, look: Look, one: Node, two: Node
    ) -> None:
        if not self.conflicts:
            latest = max(one.info.st_mtime_ns, two.info.st_mtime_ns)
            writer.content(path, Content(data, look, latest))

    def _look(self, base: Node | None, one: Node, two: Node) -> Look | None:
        """Joins what both sides made of mode, each attribute and, where it counts, owner; None if they differ."""
        looks = [None if base is None else Look.of(base), Look.of(one), Look.of(two)]
        was, ours, theirs = looks[0], looks[1], looks[2]
        assert ours is not None
        assert theirs is not None
        if one.kind == "link":
            return ours
        mode = _three(None if was is None else was.mode, ours.mode, theirs.mode)
        owner: tuple[int, int] | None = ours.owner
        if self._owners:
            owner = _three(None if was is None else was.owner, ours.owner, theirs.owner)
        found = {}
        for name in sorted({*ours.attributes, *theirs.attributes}):
            before = None if was is None else was.attributes.get(name)
            sides = ours.attributes.get(name), theirs.attributes.get(name)
            value = _three(before, *sides)
            if value is None and sides[0] != sides[1] and before not in sides:
                return None
            if value is not None:
                found[name] = value
        return None if mode is None or owner is None else Look(mode, found, owner)

    # Conflicts.

    def _conflict(self, path: bytes, kind: ConflictKind) -> Conflict:
        return Conflict(path, kind, self._base.find(path), self._ours.find(path), self._theirs.find(path))

    def _ask(self, conflict: Conflict) -> Resolution | None:
        said = asked(self._resolver, conflict)
        if said.choice == "keep":
            self.conflicts.append(conflict)
            return None
        self.report.resolved.append(conflict.path)
        return said

    def _settle(self, writer: DeltaWriter, conflict: Conflict) -> None:
        said = self._ask(conflict)
        if said is not None and not self.conflicts:
            self._write(writer, conflict, said, below=conflict.ours)

    def _write(self, writer: DeltaWriter, conflict: Conflict, said: Resolution, below: Node | None) -> None:
        """Writes what a resolver decided.

        Args:
            writer: Where to.
            conflict: What was asked.
            said: What was answered.
            below: What is seen at the path where nothing is written.
        """
        path = conflict.path
        if said.choice == "content":
            likes = [node for node in (conflict.ours, conflict.theirs, conflict.base) if node is not None]
            like = next((node for node in likes if node.kind == "file"), None)
            look = Look(0o644, {}, Look.of(likes[0]).owner) if like is None else Look.of(like)
            writer.content(
                path, Content(said.content, look if said.mode is None else replace(look, mode=said.mode))
            )
            return
        node = {"ours": conflict.ours, "theirs": conflict.theirs}.get(said.choice)
        if node is below and said.choice == "ours":
            return
        if node is None:
            if below is not None:
                writer.whiteout(path)
            return
        # A directory over another shows that one's entries too, unless it hides them.
        hides = below is not None and below.kind == "directory"
        self.report.dropped += writer.graft(node, opaque=hides and node.kind == "directory")


class _Pairs:
    """Joins two series of changes by path, in order."""

    def __init__(self, ours: Iterator[Change], theirs: Iterator[Change]) -> None:
        self._sides = (ours, theirs)
        self._next = [next(ours, None), next(theirs, None)]

    def __iter__(self) -> Iterator[_Pair]:
        """Yields the change of each side for every path that either changed."""
        while any(change is not None for change in self._next):
            yield self._pop()

    def inside(self, path: bytes) -> Iterator[_Pair]:
        """Yields what comes next for as long as it lies in a directory."""
        prefix = path + b"/"
        while any(change is not None and change.path.startswith(prefix) for change in self._next):
            yield self._pop()

    def _pop(self) -> _Pair:
        orders = [None if change is None else order(change.path) for change in self._next]
        first = min(found for found in orders if found is not None)
        pair: list[Change | None] = [None, None]
        for side in (0, 1):
            if orders[side] == first:
                pair[side] = self._next[side]
                self._next[side] = next(self._sides[side], None)
        return pair[0], pair[1]


def _closed(change: Change) -> bool:
    """Whether a directory was removed, or replaced by something else."""
    was = change.before is not None and change.before.kind == "directory"
    return was and (change.after is None or change.after.kind != "directory")


def _leaves(conflict: Conflict, said: Resolution) -> bool:
    """Whether something is at the path once the resolution is followed."""
    node = {"ours": conflict.ours, "theirs": conflict.theirs}.get(said.choice)
    return said.choice == "content" or node is not None


def _three(base: T | None, one: T | None, two: T | None) -> T | None:
    """Returns what both sides of one value come to, or None where they differ, or both have none."""
    if one == two or two == base:
        return one
    return two if one == base else None


def _why(base: Node | None, one: Node, two: Node, content: Node | bytes | None) -> ConflictKind:
    if one.kind != two.kind:
        return "type"
    if content is not None:
        return "attributes"
    if base is None:
        return "added"
    return "target" if one.kind == "link" else "content"


def _text(base: Node, one: Node, two: Node) -> bytes | None:
    texts = [text_of(node) for node in (base, one, two)]
    if texts[0] is None or texts[1] is None or texts[2] is None:
        return None
    return merged(texts[0], texts[1], texts[2])
