"""What boxes may ask for that may fork: of their own branch, and of branches that they have begun themselves.

A fork or a commit waits until nothing is called in the instances that it seals. Asked for by an action of one of them,
it would wait for itself: that is refused, at once. Branches that a box has begun, in which it is not itself, know no
such bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from kibo.box.rights import MayFork, MaySpawn
from kibo.branch.face import EVERYTHING
from kibo.branch.running import RunningBranch
from kibo.branch.sharing import shared_names
from kibo.model.errors import Denied, KiboError, WrongState
from kibo.model.limits import MAX_FORKS, MAX_SHARED
from kibo.runtime import callouts
from kibo.runtime.answering import Verb
from kibo.runtime.callers import Caller, Owned, Tally
from kibo.runtime.callouts import Asked, Fork, Name, Spawning, asks_of, definition, described, put_below
from kibo.runtime.instance import spawned_of
from kibo.runtime.states import Spawned, States
from kibo.runtime.waiting import run


class Beginning(Asked):
    goal: Annotated[str, Meta(max_length=1000)] = ""
    name: Name = "main"


class Forking(Asked):
    n: Annotated[int, Meta(ge=1, le=MAX_FORKS)] = 1
    branch: Name = ""


class OfBranch(Asked):
    branch: Name = ""


class Committing(Asked):
    branch: Name = ""
    overwrite: bool = False


class Snapshotting(Asked):
    label: Name = ""
    branch: Name = ""


class SpawningIn(Asked):
    branch: Name
    box: Name
    parameters: dict[str, Any] = {}
    name: Name = ""
    shared: Annotated[list[Name], Meta(max_length=MAX_SHARED)] = []


def begin(make: Callable[[str, str], Any], caller: Caller, asked: Beginning) -> dict[str, Any]:
    """Begins a tree of branches that is the box's own: nothing of it is left when the box ends."""
    asker = spawned_of(caller.instance).asker
    if asker.holds or asker.tape:
        why = "is in a fork, whose effects wait for its commit" if asker.holds else "is recorded, or replays"
        raise WrongState(
            f"this box {why}: what it begins would be outside of that",
            hint="Fork the branch that it is in, from outside of the box.",
            details={"branch": asker.branch},
        )
    with caller.making(branches=1):
        root: RunningBranch = make(asked.goal, asked.name)._running
        _own(caller, root, root.tally)
    return _told(root)


def spawn(caller: Caller, asked: Spawning) -> dict[str, Any]:
    """Makes an instance that is the box's own, with a part of what the box shares with others of its branch."""
    if not asked.shared:
        return callouts.spawn(caller, asked)
    running, names = _own_branch(caller), shared_names(asked.shared)
    own = running.members[caller.instance._member].shared
    if foreign := [name for name in names if name not in own]:
        raise Denied(
            f"this box does not have the shared directory {foreign[0]!r}",
            hint=f"It has: {', '.join(own) or 'none'}. Spawn it with shared=[...], from outside.",
            details={"shared": foreign},
        )
    waiting = running.family.waiting

    def forked(states: States, fork: Fork) -> Spawned:
        async def sharing() -> Spawned:
            async with running.sharing.part(states, names) as part:
                return await waiting.aside(lambda: run(fork(shared=part)))

        made: Spawned = asks_of(caller, waiting)(sharing)
        return made

    return callouts.spawn(caller, asked, forked)


def spawn_in(caller: Caller, asked: SpawningIn) -> dict[str, Any]:
    """Makes an instance in a branch that the box has begun, or forked from one."""
    running: RunningBranch = caller.owned(asked.branch)
    box = definition(caller, asked.box, asked.parameters)
    with caller.making(instances=1):
        face = asks_of(caller, running.family.waiting)(
            lambda: running.spawn(box, None, asked.name or asked.box, None, asked.shared)
        )
        put_below(face, caller)
    return described([asked.branch, face._member], face)


def fork(caller: Caller, asked: Forking) -> list[dict[str, Any]]:
    """Forks the box's own branch, or one that it has made."""
    running = _branch(caller, asked.branch)
    with caller.making(instances=asked.n * len(running.members), branches=asked.n):
        children = asks_of(caller, running.family.waiting)(lambda: running.fork(asked.n, (), "prefer"))
        for child in children:
            for member in child.members.values():
                put_below(member.face, caller)
            # Those of a tree that it has begun are counted with its root.
            _own(caller, child, Tally if asked.branch else child.tally)
    return [_told(child) for child in children]


def commit(caller: Caller, asked: Committing) -> dict[str, Any]:
    """Commits the box's own branch into its parent, or one that it has made."""
    running = _branch(caller, asked.branch)
    if running.parent is not None and not asked.branch:
        _refuse_busy(running.parent)
    done = asks_of(caller, running.family.waiting)(
        lambda: running.commit("unmoved", EVERYTHING, overwrite=asked.overwrite)
    )
    return {"parent": done.parent, "head": done.head}


def abort(caller: Caller, asked: OfBranch) -> None:
    """Ends the box's own branch, and the box with it, or one that it has made."""
    running: RunningBranch = caller.owned(asked.branch) if asked.branch else _own_branch(caller)
    asks_of(caller, running.family.waiting)(running.abort)


def snapshot(caller: Caller, asked: Snapshotting) -> dict[str, Any]:
    """Seals what the box's own branch is, or one that it has made."""
    running = _branch(caller, asked.branch)
    made = asks_of(caller, running.family.waiting)(lambda: running.snapshot(asked.label))
    return {"id": made.id, "label": asked.label}


def _branch(caller: Caller, name: str) -> RunningBranch:
    """Finds a branch that may be sealed at once."""
    if name:
        owned: RunningBranch = caller.owned(name)
        return owned
    running = _own_branch(caller)
    _refuse_busy(running)
    return running


def _own_branch(caller: Caller) -> RunningBranch:
    branch = caller.instance.branch
    if isinstance(branch, str):
        raise WrongState(
            "this box is in no branch",
            hint="Spawn it in one, from outside: kibo.branch().spawn(...); or begin one, by me.branch(...).",
        )
    running: RunningBranch = branch._running
    return running


def _refuse_busy(running: RunningBranch) -> None:
    busy = sorted(name for name, member in running.members.items() if member.talk.turn.held)
    if busy:
        raise WrongState(
            f"an action is under way in {', '.join(busy)}, and branch {running.name or running.id} is sealed between "
            "actions only",
            hint="Return from the action, and have its caller do it; or begin branches of your own, by me.branch().",
            details={"branch": running.id, "busy": busy},
        )


def _own(caller: Caller, running: RunningBranch, tally: Callable[[], Tally]) -> None:
    caller.own(
        running.id, Owned(running, partial(_end, asks_of(caller, running.family.waiting), running), tally)
    )


def _end(ask: Callable[[Any], Any], running: RunningBranch) -> None:
    try:
        ask(running.abort)
    except (KiboError, RuntimeError):
        pass  # the runtime, or the loop that it was of, has ended, and what ran in it


def _told(running: RunningBranch) -> dict[str, Any]:
    members = {name: described([running.id, name], each.face) for name, each in running.members.items()}
    return {"id": running.id, "name": running.name, "live": running.live, "instances": members}


def verbs(make: Callable[[str, str], Any]) -> dict[str, Verb]:
    """Returns the verbs, with what begins a tree by its goal and its name."""
    return {
        "spawn": Verb(Spawning, MaySpawn, spawn),
        "begin": Verb(Beginning, MayFork, partial(begin, make)),
        "spawn_in": Verb(SpawningIn, MaySpawn, spawn_in),
        "fork": Verb(Forking, MayFork, fork),
        "commit": Verb(Committing, MayFork, commit),
        "abort": Verb(OfBranch, MayFork, abort),
        "snapshot": Verb(Snapshotting, MayFork, snapshot),
    }
