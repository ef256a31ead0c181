"""``kibo.lock``: what a build resolved, so that another build can give the same layers.

It records names, versions, hashes and layer digests; never an address, a path of this machine or a time. TOML is read
by people, JSON is written by the standard library: it is JSON, sorted and indented, which diffs as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kibo.model.errors import LockMismatch

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class LockedStep:
    """What one step resolved to.

    Attributes:
        kind: The step's kind.
        spec: Its inputs as the Env gives them.
        resolved: What it chose: packages with versions and hashes, an image's manifest digest.
        layers: Digests of what it made, lowest first.
    """

    kind: str
    spec: dict[str, Any]
    resolved: dict[str, Any]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """The locked steps of one environment, in build order."""

    steps: tuple[LockedStep, ...] = field(default=())

    def to_text(self) -> str:
        """Writes the lock the way ``kibo.lock`` holds it."""
        steps = [
            {"kind": step.kind, "spec": step.spec, "resolved": step.resolved, "layers": list(step.layers)}
            for step in self.steps
        ]
        return json.dumps({"version": _VERSION, "steps": steps}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Lock:
        """Reads a lock.

        Raises:
            LockMismatch: The text is not a lock of a version that this Kibo knows.
        """
        try:
            data = json.loads(text)
            if data["version"] != _VERSION:
                raise ValueError(f"version {data['version']}, and this Kibo knows {_VERSION}")
            return cls(
                tuple(
                    LockedStep(step["kind"], step["spec"], step["resolved"], tuple(step["layers"]))
                    for step in data["steps"]
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise LockMismatch(
                f"the lock cannot be read: {error}", hint="Make it anew with `kibo build` without --locked."
            ) from error

    @classmethod
    def read(cls, path: Path) -> Lock:
        """Reads the lock at a path.

        Raises:
            LockMismatch: There is none, or it cannot be read.
        """
        try:
            return cls.from_text(path.read_text())
        except FileNotFoundError:
            raise LockMismatch(
                f"there is no lock at {path}", hint="Make it with `kibo build` without --locked."
            ) from None

    def write(self, path: Path) -> None:
        """Writes the lock to a path, replacing an older one at once."""
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(self.to_text())
        temporary.replace(path)
