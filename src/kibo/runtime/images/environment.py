"""From an Env to the layers that a box of it runs in: `build_environment`, and the interpreter's layer beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from kibo.box.env import Env, Limits
from kibo.model.errors import Bug, LockMismatch
from kibo.runtime.images.events import BuildEvent, Progress, read_event
from kibo.runtime.images.lock import Lock, LockedStep
from kibo.runtime.images.places import NODE_PATH, NPM_HOME, PIP_HOME, PYTHON_HOME
from kibo.runtime.images.plan import LOCKED_KINDS, add_interpreter, plan_steps
from kibo.runtime.images.sources import guest_signature
from kibo.runtime.images.steps import Chain, Step, digest_of
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.layers.store import Built, Layer, LayerStore, pin

__all__ = [
    "BuildEvent",
    "BuiltEnvironment",
    "Lock",
    "Progress",
    "build_environment",
    "build_environment_blocking",
    "find_environment",
    "interpreter_layer",
]

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class BuiltEnvironment:
    """What a box's root is made of.

    Attributes:
        layers: Lowest first, without the interpreter's.
        variables: Environment of every program in the box: PATH and what base and Env set.
        host_view: Whether the host's /usr is shown below the layers' own ``usr``.
        digest: Names all of it.
        lock: What was resolved.
    """

    layers: tuple[Layer, ...]
    variables: dict[str, str]
    host_view: bool
    digest: str
    lock: Lock


#: Builds of one call: a collection of garbage may take a layer between its build and its first use, but not for long.
_TRIES: Final = 3

_interpreters: dict[Path, Layer] = {}
_environments: dict[tuple[Env, Path, str], BuiltEnvironment] = {}


def interpreter_layer(home: Path) -> Layer:
    """Returns the layer of the running Python and of Kibo's guest half, building it first where it is missing.

    A dictionary look-up and a stat after the first call in a process; some 10 ms from the disk; a second to build.

    Raises:
        BuildFailed: It could not be written.
        HostUnsupported: A package that the guest needs is missing.
        HostDiskFull: No room in the state directory.
    """
    known = _interpreters.get(home)
    if known is not None and os.path.isdir(known.path):
        return known
    steps = _interpreter_steps()
    built = _find_all(home, steps)
    if built is None:
        _build(home, steps, {}, Limits(), None)
        built = _find_all(home, steps)
    layer = _present(built)[steps[-1].key].layers[0]
    pin(home, (layer,))
    _interpreters[home] = layer
    return layer


@lru_cache(maxsize=1)
def _interpreter_steps() -> tuple[Step, ...]:
    chain = Chain()
    base = add_interpreter(chain)
    chain.add("guest", "python: kibo", {}, facts=guest_signature(), below=(base.key,))
    return tuple(chain.steps)


async def build_environment(
    env: Env, *, home: Path, locked: Lock | None = None, progress: Progress | None = None
) -> BuiltEnvironment:
    """Builds what an environment is made of, or finds it built.

    Args:
        env: What to build.
        home: The state directory.
        locked: Build exactly what this records, or fail.
        progress: Called in this task's thread with each event, live.

    Returns:
        The layers and settings. They stay on disk for as long as this process lives.

    Raises:
        BuildFailed: A step failed; its log is in the error. Earlier steps stay cached.
        LockMismatch: The environment, or what it resolves to, is not what ``locked`` records.
        HostUnsupported: This host cannot build it; the hint says what would.
        HostDiskFull: No room in the state directory.

    Cancelling ends the build and leaves nothing of the step that ran. When all of it is cached the first call in a
    process takes some 10 ms and later ones some 20 us, without starting anything.
    """
    from kibo.runtime.images.building import follow_job  # late, as in `_build`

    for _ in range(_TRIES):
        if (known := find_environment(env, home=home, locked=locked)) is not None:
            return known
        await follow_job(_job(home, *_plan(env, locked), env.limits), _teller(progress))
    raise _vanished(home)


def build_environment_blocking(
    env: Env, *, home: Path, locked: Lock | None = None, progress: Progress | None = None
) -> BuiltEnvironment:
    """Does as `build_environment`, for callers that have no event loop, or stand in one that they may not enter."""
    for _ in range(_TRIES):
        if (known := find_environment(env, home=home, locked=locked)) is not None:
            return known
        _build(home, *_plan(env, locked), env.limits, progress)
    raise _vanished(home)


def find_environment(env: Env, *, home: Path, locked: Lock | None = None) -> BuiltEnvironment | None:
    """Returns an environment when all of it is built, and None when something is missing. Starts nothing.

    Raises:
        LockMismatch: The environment has other steps than ``locked``.
        HostUnsupported: The host cannot be its base.
        InvalidDefinition: A file that it names cannot be read.
    """
    memo = (env, home, "" if locked is None else locked.to_text())
    known = _environments.get(memo)
    if known is not None and _is_here(known):
        return known
    steps, _ = _plan(env, locked)
    built = _find_all(home, steps)
    if built is None:
        return None
    environment = _assemble(env, steps, built)
    pin(home, environment.layers)
    if not _is_here(environment):
        return None  # collected between the look and the pin
    if not any(isinstance(source, str) for source in env.files.values()):
        _environments[memo] = environment  # files of the host may change under the same Env
    return environment


def _is_here(environment: BuiltEnvironment) -> bool:
    return all(os.path.isdir(layer.path) for layer in environment.layers)


def _plan(env: Env, locked: Lock | None) -> tuple[tuple[Step, ...], dict[str, Any]]:
    steps = plan_steps(env)
    return (steps, {}) if locked is None else _pin_steps(steps, locked)


def _build(
    home: Path, steps: tuple[Step, ...], records: dict[str, Any], limits: Limits, progress: Progress | None
) -> None:
    from kibo.runtime.images.building import do_job  # late: most processes find all of it built

    do_job(_job(home, steps, records, limits), _teller(progress))


def _teller(progress: Progress | None) -> Callable[[dict[str, Any]], None]:
    def tell(event: dict[str, Any]) -> None:
        if progress is not None and event["event"] in ("step", "output"):
            progress(read_event(event))

    return tell


def _vanished(home: Path) -> Bug:
    return Bug(
        f"layers in {home} vanish as soon as they are built",
        hint="Look for something that removes files there, such as a cleaner of temporary files",
    )


def _job(home: Path, steps: tuple[Step, ...], records: dict[str, Any], limits: Limits) -> dict[str, Any]:
    from kibo.runtime.images.bounds import StepBounds  # late, as in `_build`

    return {
        "job": "build",
        "home": str(home),
        "steps": [step.to_dict() for step in steps],
        "locked": records,
        "bounds": StepBounds.of(limits).to_dict(),
    }


def _find_all(home: Path, steps: tuple[Step, ...]) -> dict[str, Built] | None:
    """Looks up every step, or None when one is missing."""
    prepare_home(home)
    store = LayerStore(home)
    found = {}
    for step in steps:
        built = store.find(step.key)
        if built is None:
            return None
        found[step.key] = built
    return found


def _present(built: dict[str, Built] | None) -> dict[str, Built]:
    if built is None:
        raise Bug("the builder ended well and left a step out")
    return built


def _pin_steps(steps: tuple[Step, ...], locked: Lock) -> tuple[tuple[Step, ...], dict[str, Any]]:
    """Joins each step with its record, and gives it a key of its own, since it is a function of the record too.

    Raises:
        LockMismatch: The environment has other steps than the lock.
    """
    wanted = [step for step in steps if step.part and step.kind in LOCKED_KINDS]
    for step, wanted_record in zip(wanted, locked.steps, strict=False):
        if (step.kind, step.spec) != (wanted_record.kind, wanted_record.spec):
            _refuse_lock(step.label, wanted_record)
    if len(wanted) != len(locked.steps):
        _refuse_lock(f"{len(wanted)} steps", None)
    keys: dict[str, str] = {}
    records: dict[str, Any] = {}
    pinned = []
    pairs = dict(zip((step.key for step in wanted), locked.steps, strict=True))
    for step in steps:
        record = pairs.get(step.key)
        below = tuple(keys.get(key, key) for key in step.below)
        key = step.key
        if record is not None:
            facts = {"resolved": record.resolved, "layers": list(record.layers)}
            key = digest_of(["locked", step.key, below, facts])
            records[key] = facts
        keys[step.key] = key
        pinned.append(Step.from_dict({**step.to_dict(), "key": key, "below": below}))
    return tuple(pinned), records


def _refuse_lock(what: str, record: LockedStep | None) -> None:
    has = "something else" if record is None else f"{record.kind} {record.spec}"
    raise LockMismatch(
        f"the environment has {what}, and the lock has {has}",
        hint="The Env changed since the lock was made; run `kibo build` without --locked to make it anew",
    )


def _assemble(env: Env, steps: tuple[Step, ...], built: dict[str, Built]) -> BuiltEnvironment:
    parts = [step for step in steps if step.part]
    layers = tuple(layer for step in parts for layer in built[step.key].layers)
    records = tuple(
        LockedStep(
            step.kind,
            step.spec,
            {name: value for name, value in built[step.key].details.items() if name != "variables"},
            tuple(str(layer.digest) for layer in built[step.key].layers),
        )
        for step in parts
        if step.kind in LOCKED_KINDS
    )
    variables = {"PATH": _path(env), "LANG": "C.UTF-8"}
    if env.npm:
        variables["NODE_PATH"] = NODE_PATH
    for step in parts:
        image = dict(built[step.key].details.get("variables", {}))
        if base_path := image.pop("PATH", ""):
            variables["PATH"] = _path(env, base_path)
        variables |= image
    variables |= env.variables
    digest = digest_of([[layer.digest for layer in layers], variables, env.base == "host"])
    return BuiltEnvironment(layers, variables, env.base == "host", digest, Lock(records))


def _path(env: Env, system: str = _SYSTEM_PATH) -> str:
    """Where programs are found. Python packages bring the interpreter they were installed for before the base's."""
    first = [f"{PIP_HOME}/bin", f"{PYTHON_HOME}/bin"] if env.pip else []
    if env.npm:
        first.append(f"{NPM_HOME}/bin")
    last = [] if env.pip else [f"{PYTHON_HOME}/bin"]
    return ":".join([*first, system, *last])
