"""What any box with a right may ask for, and boxes that may spawn: verbs for `answering`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from kibo.box.actions import ActionSpec
from kibo.box.define import Box
from kibo.box.plan import plan
from kibo.box.rights import MaySpawn
from kibo.model.errors import Denied, InvalidInput, KiboError, WrongState
from kibo.model.limits import DEFAULT_ACTION_S, MAX_NAME, MAX_PROGRESS_BYTES, MAX_SHARED
from kibo.runtime import wire
from kibo.runtime.answering import Verb
from kibo.runtime.callers import Caller, Owned, Tally
from kibo.runtime.instance import Instance, caller_of, conversation_of, spawned_of
from kibo.runtime.recording import perform
from kibo.runtime.states import Spawned, States
from kibo.runtime.waiting import Blocking, Outside, Waiting, run

Name = Annotated[str, Meta(max_length=MAX_NAME)]
#: Makes an instance; takes its part of shared directories as ``shared=``.
Fork = Callable[..., Coroutine[Any, Any, Spawned]]
#: How an instance is named: by what `spawn` has called it, or by the branch and its name in there.
Target = Name | Annotated[list[Name], Meta(min_length=2, max_length=2)]


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of a verb, none of which is unknown."""


class Progress(Asked):
    value: Any


class Spawning(Asked):
    box: Name
    parameters: dict[str, Any] = {}
    shared: Annotated[list[Name], Meta(max_length=MAX_SHARED)] = []


class Calling(Asked):
    of: Target
    action: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Executing(Asked):
    of: Target
    command: str | list[str]
    stdin: str = ""
    timeout_s: Annotated[float, Meta(gt=0)] = DEFAULT_ACTION_S


class Ending(Asked):
    of: Name


def who(caller: Caller, asked: Asked) -> dict[str, Any]:
    """Tells a box what it is, and what it may ask for."""
    face = caller.instance
    return {
        "id": caller.id,
        "name": getattr(face, "_member", ""),
        "branch": None if isinstance(face.branch, str) else _branch(face.branch),
        "rights": sorted({type(right).__name__ for right in caller.plan.rights}),
        "may_spawn": sorted(right.name for right in caller.plan.rights if isinstance(right, MaySpawn)),
        "quota": caller.plan.quota.as_dict(),
    }


def _branch(branch: Any) -> dict[str, Any]:
    root = branch
    while root.parent is not None:
        root = root.parent
    return {"id": branch.id, "name": branch.name, "goal": root.goal}


def progress(caller: Caller, asked: Progress) -> None:
    """Notes how far a box says it is, for whoever looks at it from outside."""
    size = len(wire.pack(asked.value))
    if size > MAX_PROGRESS_BYTES:
        raise InvalidInput(
            f"progress of {size} bytes is over the bound of {MAX_PROGRESS_BYTES}",
            hint="Say how far it is; results are returned, or written to files.",
        )
    caller.progress = asked.value


def definition(caller: Caller, name: str, parameters: dict[str, Any]) -> Box:
    """Finds what a box may spawn under a name, with the parameters that it gives.

    Raises:
        Denied: It may not spawn that.
        InvalidInput: The parameters are not the definition's.
    """
    rights = {right.name: right for right in caller.plan.rights if isinstance(right, MaySpawn)}
    right = rights.get(name)
    if right is None:
        raise Denied(
            f"this box may not spawn {name!r}",
            hint=f"It may spawn {', '.join(sorted(rights)) or 'nothing'}: see `rights` in the Box class.",
            details={"box": name},
        )
    if isinstance(right.box, Box):
        if parameters:
            raise InvalidInput(
                f"{name} comes with its parameters, and takes none",
                hint=f"Give the box MaySpawn({type(right.box).__name__}) for it to say them.",
            )
        return right.box
    if "self" in parameters:
        raise InvalidInput(f"{name} has no parameter self", hint="No definition can have one.")
    made: Box = right.box(**parameters)
    return made


def spawn(
    caller: Caller, asked: Spawning, forked: Callable[[States, Fork], Spawned] | None = None
) -> dict[str, Any]:
    """Makes an instance that is the box's own, and ends with it.

    Args:
        caller: The box.
        asked: What it asks for.
        forked: Makes it by a fork that may be given a part of shared directories; None where it has none.
    """
    box = definition(caller, asked.box, asked.parameters)
    spawned = spawned_of(caller.instance)
    states, asker = spawned.states, spawned.asker
    if asker.holds and plan(box).egress:
        raise WrongState(
            f"{asked.box} has a way out, and what it asks for would wait for a commit that waits for this box",
            hint="Spawn it in the branch, from outside of the box; or do that part after the commit.",
            details={"branch": asker.branch},
        )
    with caller.making(instances=1):
        state = states.ensure(box, None, asker.tape)
        fork = partial(states.fork, Blocking(), state, asker=asker)
        child = Instance(run(fork()) if forked is None else forked(states, fork))
        put_below(child, caller)
        caller.own(child.id, Owned(child, partial(end_instance, child), partial(tally_of, child)))
    return described(child.id, child)


def described(name: str | list[str], face: Any) -> dict[str, Any]:
    """Tells a box of an instance that it may call."""
    actions = conversation_of(face).plan.actions
    return {"of": name, "actions": {each: spec.streaming for each, spec in actions.items()}}


def put_below(face: Any, caller: Caller) -> None:
    """Has what an instance asks for count against the quota of the box because of which it lives."""
    below = caller_of(face)
    if below is not None:
        below.put_below(caller)


def end_instance(child: Instance) -> None:
    """Ends an instance, quietly where it has ended or the runtime has."""
    try:
        child.destroy()
    except KiboError:
        pass


def tally_of(child: Instance) -> Tally:
    """Counts an instance, for as long as it lives."""
    return Tally(instances=1 if child.alive or child.status == "running" else 0)


def target(caller: Caller, of: Target) -> Any:
    """Finds an instance that a box has made itself.

    Raises:
        NotFound: It has made none of that name.
    """
    if isinstance(of, list):
        return caller.owned(of[0])[of[1]]
    found = caller.owned(of)
    if not isinstance(found, Instance):
        raise InvalidInput(f"{of} is a branch", hint="Name an instance in it: [branch, name].")
    return found


def call(caller: Caller, asked: Calling) -> Any:
    """Calls an action of an instance that the box has made."""
    face = target(caller, asked.of)
    talk = conversation_of(face)
    spec, ask = talk.spec(asked.action), asks_of(caller, conversation_of(face).waiting)
    if spec.streaming:
        return _stream(face, ask, spec, asked)
    if spec.recorded:
        return ask(lambda: perform(face, spec, tuple(asked.args), asked.kwargs))
    return ask(lambda: talk.call(spec, tuple(asked.args), asked.kwargs))


def _stream(
    face: Any, ask: Callable[[Any], Any], spec: ActionSpec, asked: Calling
) -> Generator[Any, None, Any]:
    items = conversation_of(face).stream(spec, tuple(asked.args), asked.kwargs)
    try:
        while True:
            going, value = ask(items.next)
            if not going:
                return value
            yield value
    finally:
        ask(items.close)


def asks_of(caller: Caller, waiting: Waiting) -> Outside:
    """Returns what runs coroutines of an instance or a branch: they may be ones of the caller's own loop."""
    return waiting.outside() if isinstance(waiting, Blocking) else caller.asks


def execute(caller: Caller, asked: Executing) -> dict[str, Any]:
    """Runs a command in an instance that the box has made."""
    face = target(caller, asked.of)
    done = asks_of(caller, conversation_of(face).waiting)(
        lambda: conversation_of(face).execute(
            asked.command, timeout_s=asked.timeout_s, cwd=None, stdin=asked.stdin.encode(), variables=None
        )
    )
    return {"stdout": done.stdout, "stderr": done.stderr, "returncode": done.returncode}


def end(caller: Caller, asked: Ending) -> None:
    """Ends an instance or a branch that the box has made. Nothing where it has ended."""
    caller.disown(asked.of)


VERBS: Final = {
    "who": Verb(Asked, None, who),
    "progress": Verb(Progress, None, progress),
    "spawn": Verb(Spawning, MaySpawn, spawn),
    "call": Verb(Calling, None, call),
    "exec": Verb(Executing, None, execute),
    "end": Verb(Ending, None, end),
}
