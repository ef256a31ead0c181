"""Brings a plan onto the host, entirely or not at all, whatever happens meanwhile.

Everything new is first written beside its place under hidden names; then each step is one rename that can be taken
back. The journal says before each part what it will be, so that `recover` can end what a crash cut short.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kibo.branch.hostdir.drift import Check, Checked, Drift, Operation, drifted, inside, open_host
from kibo.branch.hostdir.frozen import prepare, workspaces
from kibo.branch.hostdir.journal import HIDDEN, Identity, Journal, Step, lock_path
from kibo.branch.hostdir.manifest import Manifest
from kibo.branch.hostdir.places import Places
from kibo.branch.hostdir.plan import ApplyPlan
from kibo.branch.hostdir.recover import conclude, end, recover_host, rows_at, settle, take_back
from kibo.branch.hostdir.refusing import on_host
from kibo.branch.hostdir.staging import Staging, host_mode
from kibo.branch.hostdir.steps import Raced, forward, identify, look_of
from kibo.model.errors import KiboError, Unavailable
from kibo.model.ids import RandomId
from kibo.runtime.layers.store import exhausting_disk
from kibo.runtime.trees.stack import Node, parent
from kibo.store.crash import point
from kibo.store.locking import holding


class ApplyId(RandomId):
    """One apply to a host directory."""

    __slots__ = ()
    prefix = "apply_"


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did.

    Attributes:
        host: The host directory, which all paths are relative to.
        created: Paths that were not there. A directory stands for everything in it.
        replaced: Paths whose content changed.
        removed: Paths that are gone.
        attributes: Paths of which only mode or extended attributes changed.
        already: Paths that the host had changed in the same way itself.
        dropped: Sockets and devices, which are never applied.
    """

    host: Path
    created: tuple[bytes, ...]
    replaced: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    attributes: tuple[bytes, ...]
    already: tuple[bytes, ...]
    dropped: tuple[bytes, ...]


def apply_all(plans: Mapping[str, ApplyPlan]) -> dict[str, Applied]:
    """Does what plans for several host directories say: none of them where any has drifted.

    Raises:
        KiboError: As `apply`, of one. Where another was applied before, ``details["applied"]`` names it.
    """
    for plan in plans.values() if len(plans) > 1 else ():  # one looks for itself
        if drift := plan.drift():
            raise drifted(plan.frozen, drift)
    done: dict[str, Applied] = {}
    for name, plan in plans.items():
        try:
            done[name] = apply(plan)
        except KiboError as error:
            error.details["applied"] = list(done)
            raise
    return done


def apply(plan: ApplyPlan) -> Applied:
    """Does what a plan says.

    Waits for another apply to the same host directory, and first ends one that a crash cut short. Processes that
    read the host meanwhile may see some paths new and others old for the time of the renames.

    Args:
        plan: From `plan_apply`.

    Returns:
        What was done. The freeze's manifest has moved on, so that a later plan holds only what comes after.

    Raises:
        HostDrift: The host's files at the paths in question, or the directories above them, are not what they were
            when frozen or last applied. Nothing was written.
        HostDiskFull: There is no room on the host's or the state directory's disk. Nothing was written.
        Denied: A path of the host cannot be read or written by this user. Nothing was written.
        HostUnsupported: The host's file system cannot keep an attribute. Nothing was written.
        WorkspaceUnreadable, PathTooLong: As for `plan_apply`. Nothing was written.
        Unavailable: The host's disk fails. Nothing was written, unless the message says that it is half done: then it
            is ended by the next use of the state directory that finds the host writable.
    """
    frozen = plan.frozen
    with exhausting_disk(frozen.home):
        prepare(frozen.home)
        with holding(lock_path(frozen.home, frozen.device, frozen.inode)):
            with on_host(frozen.host, "written", "an apply that was cut short before is still half done"):
                recover_host(frozen.home, frozen.device, frozen.inode)
            with open_host(frozen) as places, frozen.manifest() as manifest:
                return _Apply(plan, places, manifest).run()


class _Apply:
    def __init__(self, plan: ApplyPlan, places: Places, manifest: Manifest) -> None:
        self._plan, self._places, self._manifest = plan, places, manifest
        self._check = Check(plan.frozen, manifest, places)
        self._staging = Staging(places)
        self._already: list[bytes] = []
        self._work: list[tuple[Operation, Step]] = []
        frozen = plan.frozen
        identifier = ApplyId.new()
        self._hidden = HIDDEN + identifier[-12:].encode() + b"-"
        directory = workspaces(frozen.home) / "applies" / identifier
        host = os.fspath(frozen.host)
        self._journal = Journal(directory, host, frozen.device, frozen.inode, frozen.id, [])

    def run(self) -> Applied:
        self._prepare()
        if self._already:
            # True whatever becomes of the rest, and so before it: what fails later is taken back.
            self._manifest.advance(
                row for path in self._already for row in rows_at(self._places, path, self._manifest)
            )
        if self._work:
            self._begin()
            self._do()
        return self._told()

    def _prepare(self) -> None:
        """Compares the host with the plan, and writes down what will be done."""
        drift: list[Drift] = []
        for operation in self._plan.operations:
            with on_host(self._place(operation.path), "read"):
                found = self._check.of(operation)
                drift += found.drift
                if found.done:
                    self._already.append(operation.path)
                elif not found.drift:
                    self._work.append((operation, self._step(operation, found)))
        if drift:
            raise drifted(self._plan.frozen, drift)
        # Attributes last: the new mode of a directory may be one in which nothing can be renamed.
        self._work.sort(key=lambda work: work[1].look is not None)
        self._journal.steps = [step for _, step in self._work]

    def _place(self, path: bytes) -> Path:
        return self._plan.frozen.host / os.fsdecode(path)

    def _step(self, operation: Operation, found: Checked) -> Step:
        hidden = self._hidden + str(len(self._work)).encode()
        old = None if found.info is None else Identity.of(found.info)
        step = Step(os.fsdecode(operation.path), os.fsdecode(hidden), old)
        linked = found.info is not None and found.info.st_nlink > 1 and not stat.S_ISDIR(found.info.st_mode)
        # Of several names of one file, a box changes only the one that it wrote to: there, a file of its own.
        if operation.deed == "attributes" and not linked:
            node = operation.node
            assert node is not None
            assert found.info is not None
            fd, name = self._places.directory(parent(operation.path)), operation.path.rpartition(b"/")[2]
            own = {key: value.hex() for key, value in node.attributes().items()}
            step.look = (*look_of(fd, name), host_mode(node, found.info), own)
        return step

    def _begin(self) -> None:
        point("apply.checked")
        try:
            self._journal.begin()
        except BaseException:
            end(self._journal, None)
            raise
        point("apply.begun")

    def _do(self) -> None:
        try:
            self._stage()
            point("apply.staged")
            self._journal.commit()
            point("apply.committed")
            for number, (_, step) in enumerate(self._work):
                with on_host(self._place(step.place)):
                    forward(self._places, step, self._recheck(step))
                point("apply.step" if number < len(self._work) - 1 else "apply.step.last")
            with on_host(self._plan.frozen.host):
                settle(self._journal, self._places, self._manifest)
        except BaseException as error:
            # Whatever it is: nothing stays half done. What is where is read from the host, not remembered.
            self._undo(error)
            if isinstance(error, Raced):
                raise drifted(self._plan.frozen, [Drift(error.path, "changed")]) from None
            raise
        finally:
            self._staging.close()
        conclude(self._journal, self._places)

    def _undo(self, cause: BaseException) -> None:
        """Takes back what was done, and forgets it."""
        try:
            if self._journal.staged:
                take_back(self._places, self._journal)
                self._journal.cancel()
        except OSError as error:
            host, why = self._plan.frozen.host, os.strerror(error.errno or 0)
            raise Unavailable(
                f"an apply to {host} failed, and cannot be taken back: {why}; it is half done",
                hint="make the directory writable; the next use of Kibo, such as `kibo tree`, then ends it",
                details={"path": str(host), "error": why, "cause": str(cause)},
            ) from cause
        end(self._journal, self._places)

    def _stage(self) -> None:
        for number, (operation, step) in enumerate(self._work):
            if operation.node is None or step.look is not None:
                continue
            with on_host(self._place(operation.path)):
                self._stage_one(operation, operation.node, step)
            point("apply.staging" if number else "apply.staging.first")
        with on_host(self._plan.frozen.host):
            self._staging.flush()

    def _stage_one(self, operation: Operation, node: Node, step: Step) -> None:
        directory = parent(operation.path)
        info = None if operation.expected is None else self._places.look(operation.path)
        try:
            self._staging.put(directory, step.hidden, node, info)
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise Raced(operation.path) from error
            raise
        step.new = identify(self._places.directory(directory), step.hidden)

    def _recheck(self, step: Step) -> Callable[[int, bytes], bool]:
        def unchanged(fd: int, name: bytes) -> bool:
            return next(inside(self._manifest, fd, step.place, name), None) is None

        return unchanged

    def _told(self) -> Applied:
        by_deed: dict[str, list[bytes]] = {"create": [], "replace": [], "remove": [], "attributes": []}
        for operation, _ in self._work:
            by_deed[operation.deed].append(operation.path)
        created, replaced, removed, changed = (tuple(sorted(paths)) for paths in by_deed.values())
        # What lies in a new directory is met by both.
        dropped = tuple(dict.fromkeys([*self._plan.dropped, *self._staging.dropped]))
        host = self._plan.frozen.host
        return Applied(host, created, replaced, removed, changed, tuple(self._already), dropped)
