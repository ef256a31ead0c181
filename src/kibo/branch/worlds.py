"""What a snapshot says of a branch's instances: which boxes they are, and which layers their files lie in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from kibo.branch.records import SnapshotRecord, unreadable


@dataclass(frozen=True, slots=True)
class InstanceWorld:
    """One instance at one point in time.

    Attributes:
        box: The digest of its definition.
        label: The names of its parts, for people.
        layers: Names of the environment's layers that its files lie over, lowest first.
        deltas: Its sealed layers on disk, lowest first; the lowest may be those of a frozen workspace.
        turns: Actions that have run in it since it was spawned and may have changed its live state.
        frozen: The frozen workspace, or empty.
        shared: Names of the branch's shared directories that it has.
    """

    box: str
    label: str
    layers: tuple[str, ...]
    deltas: tuple[str, ...]
    turns: int = 0
    frozen: str = ""
    shared: tuple[str, ...] = ()


#: What a world calls the files in a branch's shared directories, which are those of no instance.
SHARED: Final = "/shared"
#: A branch's instances by their names in it, and under `SHARED` its shared directories, where it has any.
World = Mapping[str, InstanceWorld]


def to_json(world: World) -> dict[str, Any]:
    """Writes a world as history keeps it."""
    return {"instances": {name: asdict(each) for name, each in world.items()}} if world else {}


def from_json(data: Mapping[str, Any] | None) -> dict[str, InstanceWorld]:
    """Reads what `to_json` wrote; an empty world where there is none.

    Raises:
        ValueError: It is no world: damaged, or written by another version.
    """
    try:
        return {name: _instance(each) for name, each in ((data or {}).get("instances") or {}).items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"a world that is none: {error}") from error


def _instance(each: Mapping[str, Any]) -> InstanceWorld:
    told = {"shared": [], **each}  # written before there were any, it has none
    for key in ("layers", "deltas", "shared"):
        if not isinstance(told[key], list) or not all(isinstance(name, str) for name in told[key]):
            raise TypeError(f"{key} is no list of names")
        told[key] = tuple(told[key])
    return InstanceWorld(**told)


def shared_world(deltas: Sequence[str] = ()) -> InstanceWorld:
    """Describes shared directories that lie in these layers, lowest first."""
    return InstanceWorld("", "", (), tuple(deltas))


def is_on_disk(world: World) -> bool:
    """Tells whether a world is on the disk as soon as it is recorded: no file of it was written in a branch."""
    return not any(each.deltas or each.frozen for each in world.values())


def labels(world: World) -> tuple[str, ...]:
    """Returns the labels of the boxes that going on from a world needs, in order."""
    return tuple(sorted({each.label for name, each in world.items() if name != SHARED}))


def world_of(snapshot: SnapshotRecord) -> dict[str, InstanceWorld]:
    """Reads the world of a snapshot.

    Raises:
        StoreDamaged: It cannot be read.
    """
    try:
        return from_json(snapshot.world)
    except ValueError as error:
        raise unreadable(snapshot.id, error) from error


def names(data: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields what a world needs on disk: its deltas and frozen workspaces.

    Raises:
        ValueError: As `from_json`, or there is None, for a world that could not even be parsed.
    """
    for each in from_json(_parsed(data)).values():
        yield from each.deltas
        if each.frozen:
            yield each.frozen


def layers(data: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields the layers of environments that a world's files lie over.

    Raises:
        ValueError: As `names`.
    """
    for each in from_json(_parsed(data)).values():
        yield from each.layers


def _parsed(data: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if data is None:
        raise ValueError("its text is no object of JSON")
    return data
