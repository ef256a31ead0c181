"""What is asked for when a run is submitted, as plain values that are checked where they are made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from kibo.model.errors import RunInvalid
from kibo.model.limits import (
    MAX_NAME,
    MAX_PRIORITY,
    MAX_RATE,
    MAX_RATE_S,
    MAX_RUN_BYTES,
    MAX_RUN_NAMES,
    MAX_RUN_WAIT_S,
)
from kibo.schedule.policy import Policy, number, strings, text, whole

#: What becomes of a run whose subject has one that has not ended: it waits; it is refused; the other is cancelled, and
#: it begins then; the other is cancelled and what it did is undone, and it begins then.
Double = Literal["enqueue", "reject", "interrupt", "rollback"]
DOUBLES: Final = ("enqueue", "reject", "interrupt", "rollback")

#: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACE: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
#: More than any machine has.
_MOST: Final = 1 << 50


@dataclass(frozen=True)
class Resources:
    """Room on a node: what one has, or what a run takes.

    Args:
        millicpus: Thousandths of a processor.
        memory_bytes: Memory.
        boxes: Instances.
    """

    millicpus: int = 0
    memory_bytes: int = 0
    boxes: int = 1

    def __post_init__(self) -> None:
        for name in ("millicpus", "memory_bytes", "boxes"):
            whole(name, getattr(self, name), 0, _MOST)

    def holds(self, other: Resources) -> bool:
        """Tells whether the other fits into this."""
        return (
            other.millicpus <= self.millicpus
            and other.memory_bytes <= self.memory_bytes
            and other.boxes <= self.boxes
        )

    def plus(self, other: Resources, sign: int = 1) -> Resources:
        """Returns the sum, or with a sign of -1 the difference, which must not be negative."""
        return Resources(
            self.millicpus + sign * other.millicpus,
            self.memory_bytes + sign * other.memory_bytes,
            self.boxes + sign * other.boxes,
        )


@dataclass(frozen=True)
class Rate:
    """At most so many starts in any span of so many seconds.

    Args:
        starts: From 1 to 10,000.
        per_s: The span, up to a day.
    """

    starts: int
    per_s: float = 1.0

    def __post_init__(self) -> None:
        whole("starts", self.starts, 1, MAX_RATE)
        number("per_s", self.per_s, 0.001, MAX_RATE_S)


@dataclass(frozen=True)
class Allowance:
    """What a tree of runs may use together. None is no limit.

    Args:
        seconds: Of time since its first attempt began.
        branches: Forks; never exceeded.
        tokens: As attempts report; exceeded by at most one step.
        money: The same, in millionths of any unit.
    """

    seconds: float | None = None
    branches: int | None = None
    tokens: int | None = None
    money: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None:
            number("seconds", self.seconds, 0, MAX_RUN_WAIT_S)
        for name in ("branches", "tokens", "money"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 0, _MOST)


@dataclass(frozen=True)
class Request:
    """One run that is asked for.

    Args:
        work: What is to be done, in bytes that only what carries it out understands; up to 1 MiB.
        policy: How long it may take, and what is done where it fails.
        name: What people call it, and other requests of the same call in their `after`.
        tenant: Whose it is: who shares, and how much waits, is counted by tenant.
        priority: From -100 to 100; each step is worth a minute of waiting, within its tenant.
        key: Names this one intent: submitted again with the same key, it is the same run.
        subject: What it is about: runs of one subject are one after another.
        double: What becomes of it where its subject has one already.
        limits: By key, how many runs with that key may be at work at once.
        rates: By key, how often runs with that key may be started.
        resources: What it takes of its node.
        labels: What its node must be labelled with.
        near: Digests of what it would find on its node best: layers, templates.
        after: Runs that must have succeeded before it: their ids, or names of others in the same call.
        parent: The run that it is part of: cancelled with it, and of the same budget.
        budget: What it may use with all that descend from it; only where it has no parent.
        trace: Where it belongs in a trace, a W3C traceparent; empty for nowhere. Requests that differ in that alone are
            the same.
    """

    work: bytes
    policy: Policy = field(default_factory=Policy)
    name: str = ""
    tenant: str = "default"
    priority: int = 0
    key: str | None = None
    subject: str | None = None
    double: Double = "enqueue"
    limits: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    labels: Mapping[str, str] = field(default_factory=dict)
    near: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    parent: str | None = None
    budget: Allowance | None = None
    trace: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.work, bytes) or len(self.work) > MAX_RUN_BYTES:
            raise RunInvalid(
                "what a run is to do is no bytes, or too much",
                hint=f"Give at most {MAX_RUN_BYTES} bytes, and put what is larger into a file.",
            )
        if not isinstance(self.policy, Policy):
            raise RunInvalid("policy= is no Policy", hint="Give Policy(...).")
        text("name", self.name, MAX_NAME)
        _named("tenant", self.tenant)
        whole("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        for name in ("key", "subject"):
            if getattr(self, name) is not None:
                _named(name, getattr(self, name))
        if self.double not in DOUBLES:
            raise RunInvalid(f"double={self.double!r}", hint=f"Give one of {', '.join(DOUBLES)}.")
        for key, most in _mapping("limits", self.limits).items():
            whole(f"limits[{key!r}]", most, 1, _MOST)
        for key, rate in _mapping("rates", self.rates).items():
            if not isinstance(rate, Rate):
                raise RunInvalid(f"rates[{key!r}] is no Rate", hint="Give Rate(10, per_s=60).")
        if not isinstance(self.resources, Resources):
            raise RunInvalid("resources= is none", hint="Give Resources(millicpus=1000).")
        for key, value in _mapping("labels", self.labels).items():
            text(f"labels[{key!r}]", value, MAX_NAME)
        for name in ("near", "after"):
            object.__setattr__(self, name, strings(name, getattr(self, name), MAX_RUN_NAMES))
        if self.budget is not None and not isinstance(self.budget, Allowance):
            raise RunInvalid("budget= is no Allowance", hint="Give Allowance(tokens=100_000).")
        if self.budget is not None and self.parent is not None:
            raise RunInvalid(
                "a run that is part of another has its budget", hint="Give budget= to the first of a tree."
            )
        if self.trace and not is_trace(self.trace):
            raise RunInvalid("trace= is no traceparent", hint="Give 00-TRACE-SPAN-FLAGS, or leave it out.")
        bounded = self.budget is not None and self.budget.branches is not None
        if self.policy.forks_for_ever and not bounded and self.parent is None:
            raise RunInvalid(
                "Fork(depth=None) would fork for ever",
                hint="Give budget=Allowance(branches=...), or a depth.",
            )


def is_trace(text: object) -> bool:
    """Tells whether something is a traceparent of the first version, the one that there is, and names something."""
    found = _TRACE.fullmatch(text) if isinstance(text, str) else None
    return found is not None and found[1].strip("0") != "" and found[2].strip("0") != ""


def _named(name: str, value: object) -> None:
    text(name, value, MAX_NAME)
    if not value or not str(value).isprintable() or str(value) != str(value).strip():
        raise RunInvalid(f"{name}={value!r}", hint=f"Give 1 to {MAX_NAME} printable characters.")


def _mapping(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping) or len(value) > MAX_RUN_NAMES:
        raise RunInvalid(f"{name}= is no mapping, or too large", hint=f"Give at most {MAX_RUN_NAMES} keys.")
    for key in value:
        _named(name, key)
    return dict(value)
