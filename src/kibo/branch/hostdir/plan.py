"""What an apply would do to the host, and whether the host is still what it was.

A plan is a list of operations on paths none of which lies in another's: what comes with a new directory, or goes with
an old one, is part of that directory's operation. It costs what the deltas hold, whatever the size of the tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import DatabaseError
from typing import Any

from kibo.branch.hostdir.drift import Check, Drift, Operation, open_host, shows
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.manifest import Manifest, is_damage
from kibo.branch.hostdir.places import Places
from kibo.branch.hostdir.refusing import on_host
from kibo.branch.hostdir.scan import in_layers
from kibo.branch.hostdir.staging import HOST_BITS
from kibo.model.errors import HostDrift, WrongState
from kibo.runtime.trees.changes import DROPPED, changes
from kibo.runtime.trees.stack import AnyPath, Stack, order


@dataclass(slots=True)
class ApplyPlan:
    """What is to be done. Holds the stack's layers open.

    Attributes:
        frozen: The freeze that the deltas lie over.
        stack: What the host is to show at the paths of the operations.
        operations: In order of path.
        dropped: Sockets and devices among the changes, which are not applied.
    """

    frozen: Frozen
    stack: Stack
    operations: list[Operation] = field(default_factory=list)
    dropped: list[bytes] = field(default_factory=list)

    def drift(self) -> list[Drift]:
        """Looks whether the host is what the operations expect. Costs their number, and what is removed.

        Raises:
            Denied, Unavailable: It cannot be read.
        """
        with self.frozen.manifest() as manifest:
            try:
                with open_host(self.frozen) as places, on_host(self.frozen.host, "read"):
                    check = Check(self.frozen, manifest, places)
                    return [found for operation in self.operations for found in check.of(operation).drift]
            except HostDrift:
                return [Drift(b"", "directory")]

    def to_dict(self) -> dict[str, Any]:
        """Describes it as values that JSON can hold."""
        return {
            "host": os.fspath(self.frozen.host),
            "operations": [{"path": os.fsdecode(one.path), "deed": one.deed} for one in self.operations],
            "dropped": [os.fsdecode(path) for path in self.dropped],
        }


def plan_apply(frozen: Frozen, deltas: Sequence[AnyPath]) -> ApplyPlan:
    """Plans how the host directory becomes what a stack shows.

    Args:
        frozen: The freeze that the deltas lie over. What earlier applies of it did is taken into account: only what
            differs from that is done, also where deltas have been flattened or dropped since.
        deltas: Trees of sealed deltas, the lowest first.

    Returns:
        The plan. Nothing has been compared with the host yet, except what earlier applies wrote.

    Raises:
        WrongState: What the host was when it was frozen cannot be read any more.
        WorkspaceUnreadable, PathTooLong: A layer holds what this user cannot read, or what lies too deep.
    """
    try:
        return _plan(frozen, deltas)
    except DatabaseError as error:
        if not is_damage(error):
            raise
        raise WrongState(
            f"what {frozen.host} was when it was frozen cannot be read: {error}",
            hint="`kibo checkout BRANCH --to DIRECTORY` writes the workspace beside it, to be compared.",
            details={"path": str(frozen.directory)},
        ) from error


def _plan(frozen: Frozen, deltas: Sequence[AnyPath]) -> ApplyPlan:
    base = Stack(frozen.layers)
    plan = ApplyPlan(frozen, base.over(deltas))
    with frozen.manifest() as manifest:
        applied = manifest.applied_paths()
        paths: dict[bytes, bool] = dict.fromkeys(applied, False)
        for change in changes(base, deltas, bits=HOST_BITS):
            if change.dropped:
                plan.dropped.append(change.path)
            paths[change.path] = change.content
        places = _places(frozen) if applied else None
        try:
            done = b""
            for path in sorted(paths, key=order):
                if done and path.startswith(done):
                    continue
                operation = _operation(plan, manifest, places, path, content=paths[path])
                if operation is not None:
                    plan.operations.append(operation)
                    if operation.deed != "attributes":
                        done = path + b"/"
        finally:
            if places is not None:
                places.close()
    return plan


def _places(frozen: Frozen) -> Places | None:
    try:
        return Places(frozen.host)
    except OSError:
        return None  # drift, which the apply reports


def _operation(
    plan: ApplyPlan, manifest: Manifest, places: Places | None, path: bytes, *, content: bool
) -> Operation | None:
    expected, node = manifest.find(path), plan.stack.find(path)
    if expected is not None and not in_layers(expected):
        expected = None  # no box has seen it, so none can have meant it: what it put there meets it as drift
    if node is not None and node.kind in DROPPED:
        node = None
    if expected is None or node is None:
        if expected is None and node is None:
            return None
        return Operation(path, "create" if expected is None else "remove", expected, node)
    if stat.S_IFMT(expected.mode) != stat.S_IFMT(node.info.st_mode):
        return Operation(path, "replace", expected, node)
    if manifest.applied(path) is not None:
        # The host may have it already, from an earlier apply of the same change.
        try:
            content = places is None or not shows(places, path, node, content_only=True)
            if not content and places is not None and shows(places, path, node):
                return None
        except OSError:
            content = True  # drift, which the apply reports
    if node.kind == "directory" or not content:
        return Operation(path, "attributes", expected, node)
    return Operation(path, "replace", expected, node)
