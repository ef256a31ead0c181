"""The layers on disk that branches write: compared, merged, joined and removed, without the boxes that wrote them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from kibo.branch.hostdir.apply import Applied, apply_all
from kibo.branch.hostdir.frozen import PLACE, Frozen
from kibo.branch.hostdir.plan import ApplyPlan, plan_apply
from kibo.branch.worlds import InstanceWorld
from kibo.model.errors import MergeConflict, WrongState
from kibo.model.ids import DeltaId
from kibo.runtime.handle import Change
from kibo.runtime.layers.store import exhausting_disk
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.runtime.trees import changes as comparing
from kibo.runtime.trees.conflict import Conflict, Resolver
from kibo.runtime.trees.flatten import PARTS, flatten
from kibo.runtime.trees.merge import Merged, merge_trees
from kibo.runtime.trees.stack import Stack
from kibo.runtime.trees.tiers import MAX_CHAIN
from kibo.store.crash import point

#: The two trees of a delta, where each is seen in a box, and what the second lies over.
_PLACES: Final = (("u", ""), ("usr-u", "usr/"))
_HOST_USR: Final = Path("/usr")


class BranchChange(Change):
    """One file that differs between two points of a branch.

    Attributes:
        instance: The name of the instance in which.
    """

    instance: str


class Deltas:
    """The deltas of one state directory.

    Args:
        home: The state directory.
        new: Names a layer that this process is about to make, so that it goes with the process if nobody seals it.
    """

    def __init__(self, home: Path, new: Callable[[], DeltaId]) -> None:
        self.home: Final = home
        self._new: Final = new
        self._written: set[str] = set()

    def path(self, name: str) -> Path:
        """Returns where a delta lies."""
        return self.home / "deltas" / name

    def layer(self, name: str) -> Path:
        """Returns where a layer of an environment lies."""
        return self.home / "layers" / name / "fs"

    def written(self, name: str) -> bool:
        """Tells whether anything was written to a delta. Of one that is not sealed the answer may change to yes."""
        if name not in self._written and any(_has_entries(self.path(name) / part) for part, _ in _PLACES):
            self._written.add(name)
        return name in self._written

    def changes(
        self,
        instance: str,
        before: InstanceWorld | None,
        after: InstanceWorld,
        bits: int = comparing.MODE_BITS,
    ) -> Iterator[BranchChange]:
        """Lists what differs between two worlds of one instance, in order of path.

        What `launch()` left counts as absent: it lies in the state, and in no delta. Of modes, ``bits`` count.
        """
        for place, change in self.compared(before, after, bits):
            node = change.after or change.before
            folder = node is not None and node.kind == "directory"
            size = 0 if change.after is None or folder else change.after.size
            path = f"/{place}{os.fsdecode(change.path)}{'/' * folder}"
            yield BranchChange(kind=change.kind, path=path, size=size, instance=instance)

    def compared(
        self, before: InstanceWorld | None, after: InstanceWorld, bits: int = comparing.MODE_BITS
    ) -> Iterator[tuple[str, comparing.Change]]:
        """As `changes`, with the files themselves, which can be read until the next is asked for.

        Yields:
            Where in a box the change's path is relative to, below the root, and the change.
        """
        for part, place in _PLACES:
            below = self._below(after, part)
            old = below if before is None else [*below, *self._trees(before.deltas, part)]
            new = [*below, *self._trees(after.deltas, part)]
            if old == new or not new:
                continue
            with Stack(old) as one, Stack(new) as two:
                for change in comparing.difference(one, two, bits=bits):
                    if not change.dropped:
                        yield place, change

    def root(self, world: InstanceWorld) -> Stack:
        """Opens the files of an instance as it sees them from its root; the caller closes them."""
        return Stack([*self._below(world, "u"), *self._trees(world.deltas, "u")])

    def merge(
        self,
        instance: str,
        sides: tuple[InstanceWorld, InstanceWorld, InstanceWorld],
        resolver: Resolver | None,
    ) -> tuple[tuple[str, ...], list[Conflict]]:
        """Joins what two worlds of an instance made of a third.

        Args:
            instance: Its name, which conflicts carry.
            sides: Base, ours and theirs.
            resolver: Asked for each conflict.

        Returns:
            Ours' deltas and the new one on top, where there is anything to join; and what could not be joined, in
            which case nothing was written.
        """
        _, ours, _ = sides
        conflicts: list[Conflict] = []
        entry = TemporaryEntry.create(self.home, "merge")
        try:
            with exhausting_disk(self.home):
                made = entry.path / self._new()
                made.mkdir(mode=0o755)
                written = 0
                for part, work in PARTS:
                    trees = [self._trees(one.deltas, part) for one in sides]
                    (made / part).mkdir(mode=0o755)
                    (made / work).mkdir(mode=0o755)
                    if any(trees):
                        placed = _placing(instance, dict(_PLACES)[part])
                        done = _merge_part(
                            self._below(ours, part), trees, made / part, placed, resolver, conflicts
                        )
                        written += done.entries if done else 0
                if conflicts or not written:
                    return ours.deltas, conflicts
                point("merge.written")
                os.rename(made, self.path(made.name))
                point("merge.renamed")
                return (*ours.deltas, made.name), []
        finally:
            entry.remove()

    def shown(self, world: InstanceWorld) -> int:
        """Returns how many of an instance's lowest deltas show its workspace as it was frozen."""
        return len(Frozen.load(self.home, world.frozen).deltas) if world.frozen else 0

    def shortened(self, world: InstanceWorld) -> InstanceWorld:
        """Joins the deltas of an instance to one, besides those of its workspace, where there are more than a root
        should have. Cost is in their names.
        """
        if len(world.deltas) <= MAX_CHAIN or len(world.deltas) - (keep := self.shown(world)) <= MAX_CHAIN:
            return world
        name = self._new()
        flatten([self.path(each) for each in world.deltas[keep:]], self.path(name), self.home, flush=False)
        return replace(world, deltas=(*world.deltas[:keep], name))

    def apply(self, instances: Mapping[str, InstanceWorld]) -> dict[str, Applied]:
        """Brings what instances made of their workspaces to the host's directories; see `hostdir.apply.apply_all`."""
        return apply_all({name: self.plan(each) for name, each in instances.items()})

    def plan(self, instance: InstanceWorld) -> ApplyPlan:
        """Plans how what an instance made of its workspace comes to the host's directory."""
        frozen = Frozen.load(self.home, instance.frozen)
        shown = set(frozen.deltas)
        trees = []
        for name in instance.deltas:
            tree = self.path(name) / "u" / PLACE
            if name in shown or not os.path.lexists(tree):
                continue
            if not tree.is_dir() or tree.is_symlink() or _hides(tree):
                raise WrongState(
                    f"/{PLACE} itself was removed or replaced, and the workspace with it",
                    hint="Remove what is in it instead; the directory stays.",
                    details={"delta": name},
                )
            trees.append(tree)
        return plan_apply(frozen, trees)

    def _below(self, world: InstanceWorld, part: str) -> list[Path]:
        if part == "u":
            # Shared directories lie over nothing.
            return [self.layer(name) for name in world.layers] or [self._nothing()]
        return [_HOST_USR]

    def _nothing(self) -> Path:
        path = self.home / "nothing"
        path.mkdir(mode=0o755, exist_ok=True)
        return path

    def _trees(self, deltas: Sequence[str], part: str) -> list[Path]:
        return [tree for name in deltas if (tree := self.path(name) / part).is_dir()]


def _merge_part(
    below: list[Path],
    sides: list[list[Path]],
    into: Path,
    placed: Callable[[Conflict], Conflict],
    resolver: Resolver | None,
    conflicts: list[Conflict],
) -> Merged | None:
    base, ours, theirs = sides
    shared = _shared(base, ours, theirs)
    asked = None if resolver is None else lambda conflict: resolver(placed(conflict))
    try:
        return merge_trees([*below, *base[:shared]], ours[shared:], theirs[shared:], into, asked)
    except MergeConflict as error:
        conflicts += [placed(each) for each in error.conflicts]
        return None


def _placing(instance: str, place: str) -> Callable[[Conflict], Conflict]:
    """Returns what names a conflict as whoever looks at the instance does: a tree's paths are relative to its place."""
    return lambda conflict: replace(conflict, path=place.encode() + conflict.path, instance=instance)


def _shared(*sides: Sequence[Path]) -> int:
    shared = 0
    for each in zip(*sides, strict=False):
        if len(set(each)) > 1:
            break
        shared += 1
    return shared


def _has_entries(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False


def _hides(tree: Path) -> bool:
    from kibo.runtime.trees.attributes import OPAQUE, read_one

    return read_one(os.fsencode(tree), OPAQUE) is not None
