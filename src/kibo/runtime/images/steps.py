"""The build steps of an environment as data: what each is made of, on what it stands, and its key.

A key is a hash over a step's inputs and the key of the step below it, so that equal inputs are built once. It is known
before anything runs, which makes the question "is it all here" a look at a few files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

#: Raised when a step's way of working changes so that an older Kibo's layer must not be taken for this one's.
GENERATION: Final = 6

Kind = Literal[
    "interpreter", "guest", "host", "debian", "oci", "boxroot", "apt", "pip", "npm", "files", "run"
]


@dataclass(frozen=True, slots=True)
class Step:
    """One build step.

    Attributes:
        kind: What it does.
        label: What a person reads, such as ``apt: chromium``.
        spec: Its own inputs, as JSON values; the same on every machine.
        key: Names all its inputs, this machine's and those of the steps below it included.
        below: Keys of the steps that its root is made of, lowest first.
        host_usr: Whether its root has the host's /usr.
        part: Whether its layers are part of the environment, and not only a tool for building it.
        payload: What the step needs besides and that its key covers in another form, such as files' content.
    """

    kind: Kind
    label: str
    spec: dict[str, Any]
    key: str
    below: tuple[str, ...] = ()
    host_usr: bool = False
    part: bool = True
    payload: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Describes the step for the builder process."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Step:
        """Reads what `to_dict` wrote."""
        return cls(**{**data, "below": tuple(data["below"])})


def digest_of(value: object) -> str:
    """Hashes JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


@dataclass(slots=True)
class Chain:
    """Steps in the making, each on top of those before it."""

    steps: list[Step] = field(default_factory=list)
    host_usr: bool = False

    def add(
        self,
        kind: Kind,
        label: str,
        spec: dict[str, Any],
        *,
        facts: object = None,
        below: tuple[str, ...] | None = None,
        stands_alone: bool = False,
        host_usr: bool | None = None,
        part: bool = True,
        payload: dict[str, Any] | None = None,
    ) -> Step:
        """Appends a step.

        Args:
            kind: See Step.
            label: See Step.
            spec: See Step.
            facts: Inputs that are this machine's own, such as the state of its package database.
            below: What it stands on; all earlier parts of the chain unless given.
            stands_alone: Whether its result does not depend on the state of the host's system and tools, so that a
                change of them is no reason to build it again.
            host_usr: Whether it sees the host's /usr; as the chain does unless given.
            part: See Step.
            payload: See Step.
        """
        if below is None:
            below = tuple(step.key for step in self.steps if step.part)
        usr = self.host_usr if host_usr is None else host_usr
        tools = {step.key for step in self.steps if step.kind == "host" or not step.part}
        inputs = [key for key in below if not stands_alone or key not in tools]
        key = digest_of([GENERATION, kind, spec, facts, inputs, usr])
        step = Step(kind, label, spec, key, below, usr, part, payload or {})
        self.steps.append(step)
        return step
