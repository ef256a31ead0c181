"""Three-way merges of whole worlds: what each instance is made of afterwards, and fresh guests over it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kibo.branch.deltas import Deltas
from kibo.branch.worlds import SHARED, InstanceWorld, World
from kibo.model.errors import InvalidInput, ReadsChanged
from kibo.runtime.trees.conflict import Conflict, Resolver, asked
from kibo.runtime.trees.globs import matching
from kibo.runtime.trees.merge import merge_conflict

if TYPE_CHECKING:
    from kibo.branch.family import Family
    from kibo.branch.members import Member
    from kibo.branch.sharing import Part
    from kibo.model.asker import Asker
    from kibo.runtime.states import Spawned, States

#: Paths that an error names.
_SHOWN = 5


def join(
    deltas: Deltas, sides: tuple[World, World, World], resolver: Resolver | None, reads: Sequence[str] | None
) -> dict[str, InstanceWorld]:
    """Merges theirs into ours.

    Args:
        deltas: The files.
        sides: Base, ours and theirs.
        resolver: Asked for each conflict.
        reads: Patterns of paths that must be in ours what they were in the base; None where that does not matter.

    Raises:
        ReadsChanged: They are not. Nothing was written.
        MergeConflict: Something cannot be joined; it carries every conflict.
    """
    base, ours, theirs = sides
    if reads is not None:
        _check_reads(deltas, base, ours, reads)
    merged: dict[str, InstanceWorld] = {}
    conflicts: list[Conflict] = []
    for name in sorted(ours.keys() | theirs.keys()):
        was, one, two = base.get(name), ours.get(name), theirs.get(name)
        if one is None or two is None:
            kept, failed = _of_one_side(deltas, name, (was, one, two), resolver)
            conflicts += failed
            if kept is not None:
                merged[name] = kept
            continue
        if two == was or one == two:
            merged[name] = one
        elif one == was:
            merged[name] = two
        else:
            start = was or replace(one, deltas=())
            chain, failed = deltas.merge(name, (start, one, two), resolver)
            conflicts += failed
            if not conflicts:
                turns = 0 if name == SHARED else max(one.turns, two.turns) + 1
                both = replace(one, deltas=chain, turns=turns)
                merged[name] = deltas.shortened(both)
    if conflicts:
        raise merge_conflict(
            conflicts, "merge(resolver) asks your resolver; commit(overwrite=True) takes the branch's side."
        )
    return merged


def _of_one_side(
    deltas: Deltas,
    name: str,
    sides: tuple[InstanceWorld | None, InstanceWorld | None, InstanceWorld | None],
    resolver: Resolver | None,
) -> tuple[InstanceWorld | None, list[Conflict]]:
    """Decides what becomes of an instance that one side has spawned, or the other has destroyed.

    Returns:
        It, or None where it is not to be there; and the conflict, where one side destroyed what the other went on with.
    """
    was, ours, theirs = sides
    there = ours or theirs
    if was is None:
        return there, []
    if there == was:
        return None, []
    base, one, two = (None if each is None else deltas.root(each).root for each in sides)
    conflict = Conflict(b"", "destroyed", base, one, two, name)
    said = asked(resolver, conflict).choice
    if said == "content":
        raise InvalidInput(
            f"{name} is an instance, and no file that could have a content",
            hint="Return OURS, THEIRS, DELETE or KEEP for a conflict of the kind 'destroyed'.",
        )
    return {"ours": ours, "theirs": theirs}.get(said), [conflict] if said == "keep" else []


def _check_reads(deltas: Deltas, base: World, ours: World, reads: Sequence[str]) -> None:
    changed: list[str] = []
    for name, one in ours.items():
        paths = [change.path.strip("/").encode() for change in deltas.changes(name, base.get(name), one)]
        changed += [f"/{os.fsdecode(path)}" for path in matching(paths, reads)]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ReadsChanged(
            f"what the branch may have read has changed in its parent: {', '.join(changed[:_SHOWN])}{more}",
            hint="Name what it did read with reads=[...], merge(), or fork again from the parent.",
            details={"paths": changed},
        )


async def revive(
    family: Family,
    merged: World,
    ours: World,
    kept: set[str],
    members: Mapping[str, Member],
    theirs: Mapping[str, Member],
    asker: Asker,
    shared: Callable[[States, InstanceWorld], Awaitable[Part | None]],
) -> dict[str, Spawned]:
    """Spawns fresh guests over the files of those instances of a merged world that neither side has running as they are
    to be: those of the parent that have a part of what was shared in it are made anew, too.

    They ask on behalf of the branch that is merged: until that is recorded it may come to nothing, and what their
    `resume()` asks for with it.
    """
    from kibo.runtime.forking import discard  # late: who merges what runs nowhere spawns nothing

    made: dict[str, Spawned] = {}
    try:
        for name, world in merged.items():
            if name == SHARED or name in kept or (ours.get(name) == world and not world.shared):
                continue
            like = (members.get(name) or theirs[name]).spawned
            upper = family.owner.new()
            made[name] = await like.states.fork(
                family.waiting,
                like.state,
                upper=upper,
                over=world.deltas,
                asker=asker,
                shared=await shared(like.states, world),
            )
    except BaseException:
        for spawned in made.values():
            discard(spawned)
        raise
    return made
