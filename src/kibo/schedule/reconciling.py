"""What is to be there, and what is: the actions that lead from one to the other. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kibo.model.limits import MAX_NAME, MAX_WANTED
from kibo.schedule.policy import number, text, whole

#: Instances of one thing that start at once: a definition that never gets ready must not take the whole host.
AT_ONCE = 4


@dataclass(frozen=True)
class Wanted:
    """One thing that is to be there.

    Args:
        name: Its name, unique.
        digest: Of the definition that its instances are of.
        count: How many there are to be.
        backoff_s: The pause after an instance of it has failed; twice as long for each further failure in a row.
        max_backoff_s: The longest pause.
    """

    name: str
    digest: str
    count: int = 1
    backoff_s: float = 1.0
    max_backoff_s: float = 300.0

    def __post_init__(self) -> None:
        text("name", self.name, MAX_NAME)
        text("digest", self.digest, MAX_NAME)
        whole("count", self.count, 0, MAX_WANTED)
        number("backoff_s", self.backoff_s, 0, 86400)
        number("max_backoff_s", self.max_backoff_s, 0, 86400)


class Observed(NamedTuple):
    """One instance that is there.

    Attributes:
        id: Its name.
        name: What it is one of.
        digest: Of its definition.
        state: How it stands; one that has failed is there until it is stopped.
    """

    id: str
    name: str
    digest: str
    state: Literal["starting", "ready", "failed", "stopping"]


class Failures(NamedTuple):
    """How often instances of one thing have failed in a row, and how long ago the last one did."""

    in_a_row: int = 0
    ago_s: float = 0.0


class Action(NamedTuple):
    """One thing to do.

    Attributes:
        verb: `start` one, or `stop` one.
        name: What it is one of.
        target: The digest to start, or the id to stop.
        why: In a word: `missing`, `newer`, `failed`, `replaced`, `surplus`, `unwanted`.
    """

    verb: Literal["start", "stop"]
    name: str
    target: str
    why: str


def reconcile(
    wanted: Iterable[Wanted], observed: Iterable[Observed], failures: dict[str, Failures] | None = None
) -> tuple[Action, ...]:
    """Decides what is to be done. Where all is as it should be, that is nothing.

    An instance of an older definition is stopped once a newer one is ready in its place, so that what is wanted stays.

    Args:
        wanted: What is to be there.
        observed: What is.
        failures: By name, what has failed lately.
    """
    there: dict[str, list[Observed]] = defaultdict(list)
    for each in sorted(observed):
        there[each.name].append(each)
    actions: list[Action] = []
    for one in sorted(wanted, key=lambda each: each.name):
        actions += _one(one, there.pop(one.name, []), (failures or {}).get(one.name, Failures()))
    for name, left in sorted(there.items()):
        actions += [Action("stop", name, each.id, "unwanted") for each in left if each.state != "stopping"]
    return tuple(actions)


def pause_s(one: Wanted, failures: Failures) -> float:
    """Returns the seconds until another instance may be started; 0 for now."""
    if not failures.in_a_row:
        return 0.0
    pause = min(one.max_backoff_s, one.backoff_s * 2.0 ** min(failures.in_a_row - 1, 64))
    return max(0.0, pause - failures.ago_s)


def _one(one: Wanted, there: list[Observed], failures: Failures) -> list[Action]:
    actions = [Action("stop", one.name, each.id, "failed") for each in there if each.state == "failed"]
    alive = [each for each in there if each.state in ("starting", "ready")]
    new = [each for each in alive if each.digest == one.digest]
    old = [each for each in alive if each.digest != one.digest]
    # Those that start go first, then the highest ids: what serves already stays.
    new.sort(key=lambda each: (each.state != "starting", each.id))
    surplus, new = new[: max(0, len(new) - one.count)], new[max(0, len(new) - one.count) :]
    actions += [Action("stop", one.name, each.id, "surplus") for each in surplus]
    ready = sum(each.state == "ready" for each in new)
    kept = max(0, one.count - ready)
    actions += [Action("stop", one.name, each.id, "replaced") for each in old[kept:]]
    missing = one.count - len(new)
    if missing > 0 and pause_s(one, failures) == 0:
        starting = sum(each.state == "starting" for each in new)
        why = "newer" if old else "missing"
        actions += [Action("start", one.name, one.digest, why)] * max(0, min(missing, AT_ONCE - starting))
    return actions
