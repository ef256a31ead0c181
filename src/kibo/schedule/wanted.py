"""What is wanted, as values that are checked where they are made, and as the store holds it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, Final

from kibo.model.errors import ManifestInvalid, StoreDamaged
from kibo.model.limits import MAX_RUN_WAIT_S
from kibo.model.topics import checked_pattern
from kibo.schedule.encoding import packed, packed_request, read_request, unpacked
from kibo.schedule.policy import number
from kibo.schedule.request import Request
from kibo.schedule.ticks import Schedule

#: As names are in host names, and in Kubernetes: they are parts of keys, and people type them.
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Trigger:
    """Runs that begin by themselves: at the times of a schedule, or one for each event of a topic.

    Args:
        name: Its name, unique among triggers: letters from a to z, digits and hyphens, at most 63.
        request: What is asked for each time; without key and name, which are of each run.
        cron: When, of a schedule; see `Schedule`.
        zone: Where that is the time.
        late_s: How late a run of it may still be started; None for any time. Of several ticks that were missed, one
            starts a run at most.
        topic: Which events; see `kibo.model.topics`.
        branch: The id or the name of the root branches in which they are heard; empty for all.
        message: The parameter that is given an event's body; empty for none.
    """

    name: str
    request: Request
    cron: str = ""
    zone: str = "UTC"
    late_s: float | None = None
    topic: str = ""
    branch: str = ""
    message: str = ""

    kind: ClassVar[str] = "trigger"

    def __post_init__(self) -> None:
        checked_name(self.name)
        if bool(self.cron) == bool(self.topic):
            raise ManifestInvalid(
                f"trigger {self.name} has {'both a cron and a topic' if self.cron else 'no cron and no topic'}",
                hint="Give one of cron: and topic:.",
            )
        if self.topic:
            checked_pattern(self.topic)
        elif self.schedule.after(0.0) is None:
            raise ManifestInvalid(f"{self.cron!r} is never due", hint="No such day comes in fifty years.")
        if self.late_s is not None:
            number("late", self.late_s, 0, MAX_RUN_WAIT_S)

    @cached_property
    def schedule(self) -> Schedule:
        """When it is due."""
        return Schedule(self.cron, self.zone)

    @property
    def occasion(self) -> tuple[str, ...]:
        """What makes it start runs: where that is another, it begins anew."""
        return (self.topic, self.branch) if self.topic else (self.cron, self.zone)

    @property
    def when(self) -> str:
        """What starts its runs, for people."""
        if self.topic:
            return f"topic {self.topic}" + (f" in {self.branch}" if self.branch else "")
        return f"{self.cron} ({self.zone})"

    def asked(self, occasion: str, work: bytes | None = None) -> Request:
        """Returns the request of one run, whose key is the trigger's name and what it is started by.

        Args:
            occasion: The tick as `told`, or the message's id.
            work: What is to be done, where that is not always the same.
        """
        called = f"{self.name} {occasion}"
        work = self.request.work if work is None else work
        return replace(self.request, work=work, name=called, key=f"trigger/{called}")

    def spec(self) -> bytes:
        """Writes all of it but what its runs do."""
        told = {name: getattr(self, name) for name in _FIELDS}
        return packed(told | {"request": packed_request(self.request).decode()})


_FIELDS: Final = ("name", "cron", "zone", "late_s", "topic", "branch", "message")


def told(tick: int) -> str:
    """Writes a tick as keys and names of runs have it."""
    return datetime.fromtimestamp(tick, UTC).strftime("%Y-%m-%dT%H:%MZ")


def read_trigger(name: str, spec: bytes, work: bytes) -> Trigger:
    """Reads a trigger that the store holds.

    Raises:
        StoreDamaged: It is none.
    """
    what = f"the trigger {name}"

    def read(found: dict[str, Any]) -> Trigger:
        request = read_request(what, found.pop("request").encode())
        return Trigger(request=replace(request, work=work), **found)

    made = unpacked(what, spec, read)
    if made.name != name:
        raise StoreDamaged(f"the store is damaged: {what} is {made.name!r}", details={"what": what})
    return made


def checked_name(name: str) -> str:
    """Returns the name of something that is wanted.

    Raises:
        ManifestInvalid: It is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ManifestInvalid(
            f"{str(name)[:80]!r} is no name", hint="Use letters from a to z, digits and hyphens, at most 63."
        )
    return name
