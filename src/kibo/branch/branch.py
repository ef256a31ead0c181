"""A branch, as a plain program holds it. `kibo.aio` has the same for coroutines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kibo.box.define import Box
from kibo.branch.deltas import BranchChange
from kibo.branch.face import EVERYTHING, BranchFace, Onto
from kibo.branch.hostdir.apply import Applied
from kibo.branch.mail_faces import BranchBoard, BranchMail
from kibo.branch.records import Committed, SnapshotRecord, Status, Undone
from kibo.branch.shared_face import SharedDirectory
from kibo.branch.sharing import shared_names
from kibo.effects.records import Effect
from kibo.model.telling import telling
from kibo.runtime.forking import Live
from kibo.runtime.instance import Instance
from kibo.runtime.states import Progress
from kibo.runtime.trees.conflict import Resolver
from kibo.runtime.waiting import run

if TYPE_CHECKING:
    from kibo.context.context import Context
    from kibo.effects.unrecorded import Unrecorded


class Branch(BranchFace[Instance]):
    """A line of execution: instances, their files and their live state, which are forked and committed as one.

    A root ends with its ``with`` block: what it is is sealed, can be looked at and applied later, and nothing of it
    runs any more. Thread-safe.
    """

    def __repr__(self) -> str:
        return f"<Branch {self.name or self.id} {self.status}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with telling(error):
            self.close(keep=error is None or isinstance(error, Exception))

    @property
    def status(self) -> Status:
        """``open``, ``committed``, ``aborted``, or ``stale``: open, and its parent has moved since it was forked."""
        return run(self._running.status())

    @property
    def context(self) -> Context:
        """What an agent knows in it: messages, notes and memories, which fork, commit and abort with the branch."""
        return self._running.context

    def spawn(
        self,
        box: Box,
        *,
        workspace: str | os.PathLike[str] | None = None,
        name: str = "",
        shared: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Instance:
        """Makes an instance in the branch.

        Args:
            box: The definition.
            workspace: A directory of the host, which the instance sees at ``/work`` as it is now. The directory itself
                is changed by `apply` alone.
            name: What to call it in the branch; by default the names of its parts, and a number from the second on.
            shared: Names of directories that it sees at ``/shared/NAME``, as all instances of the branch do that were
                spawned with the same name: each sees at once what the others write. They are made by whoever names them
                first, are forked, committed and merged with the branch, and may take as much disk together as the
                largest of these instances may alone. At most 32.
            progress: Told of each step where something has to be built, and several times a second of how far the
                workspace is read: a `kibo.branch.hostdir.reading.Reading`.

        Returns:
            The instance. It lives for as long as the branch does, unless it is destroyed before.

        Raises:
            BranchClosed, BranchStale: The branch is not open.
            FileMissing, WorkspaceUnreadable, WorkspaceChanging: See `kibo.branch.hostdir.freeze`.
            InvalidInput: A shared directory cannot be called so.
            KiboError: As `Box.spawn`.
        """
        instance: Instance = run(self._running.spawn(box, workspace, name, progress, shared))
        return instance

    def shared(self, name: str) -> SharedDirectory:
        """Returns one of its shared directories, to read and write from here; it is made on first use.

        Args:
            name: As instances are spawned with.

        Raises:
            InvalidInput: A shared directory cannot be called so.
        """
        (checked,) = shared_names([name])
        return SharedDirectory(self._running, checked)

    def fork(self, n: int = 1, *, names: Sequence[str] = (), live: Live = "prefer") -> list[Branch]:
        """Makes branches that begin where this one is: every instance, its files and its live state, at one moment.

        Waits for calls that are under way in its instances. Milliseconds, whatever the instances hold.

        Args:
            n: How many, 1 to 10,000.
            names: What to call them, in order; the rest is numbered.
            live: As for `Instance.fork`.

        Returns:
            The forks, in order. All exist, or none.

        Raises:
            NotLive: Something in an instance cannot be forked; ``details["reasons"]`` says what.
            BranchClosed, BranchStale: The branch is not open.
        """
        return [child.face for child in run(self._running.fork(n, names, live))]

    def commit(
        self,
        *,
        onto: Onto = "unmoved",
        reads: Sequence[str] = EVERYTHING,
        overwrite: bool = False,
    ) -> Committed:
        """Makes the parent what this branch is. Its siblings become stale; what ran in them is killed when it returns.

        The instances of the parent are from now on what the branch's are: whoever holds one goes on with it.

        What the branch has asked the outside world for and was made to wait with is sent now, once and in order, where
        the parent is a root, and held by the parent otherwise. A call that waits for it goes on in the parent's
        instance, and returns to its caller; its files are sealed as they are in the middle of it. Returns when the
        outcome of all that was sent is known, or after 30 s: see `Committed.effects`. It does not wait for a person:
        what a rule asks one about is sent as soon as `kibo.approve` has been called for it, before the commit or after.

        Args:
            onto: ``"unmoved"``: only where the parent is still what it was at the fork. ``"validated"``: also where it
                has moved, if nothing has changed that the branch has read; both sides are then joined, and fresh guests
                run over the joined files.
            reads: For ``"validated"``: patterns of paths that the branch has read, such as ``"/work/src/**"``; all by
                default.
            overwrite: Commit wherever the parent is. What it had become is left behind, and can be read.

        Raises:
            BranchStale: The parent has moved. Nothing has changed; see `merge`.
            ReadsChanged: What it has read has changed. Nothing has changed.
            BranchClosed: It is not open.
            WrongState: It is a root.
        """
        return run(self._running.commit(onto, reads, overwrite=overwrite))

    def merge(self, resolver: Resolver | None = None) -> Committed:
        """Joins what this branch and its parent have become since the fork, file by file and text line by line.

        Works for a stale branch too: its files are there. Instances that both sides changed go on with fresh guests.

        Args:
            resolver: Called for each conflict; without one, conflicts are an error.

        Raises:
            MergeConflict: With base, ours and theirs of each path. Nothing has changed.
            BranchClosed: It was committed or aborted.
        """
        return run(self._running.merge(resolver, None))

    def abort(self) -> Undone:
        """Ends it and all that was forked from it. A call that runs in it raises at once. Idempotent.

        What was done in it by actions that can be undone is undone, the newest first, before its instances end.

        Returns:
            What was to be undone, and what came of it. What is left is logged as a warning, too, and in `kibo effects`.
        """
        return run(self._running.abort())

    def snapshot(self, label: str = "") -> SnapshotRecord:
        """Seals what it is, to come back to. Where nothing has changed, its last snapshot is returned.

        Args:
            label: A name for it, which moves here if another snapshot of the tree has it.

        Raises:
            NotLive: As `fork`.
            BranchClosed, BranchStale: The branch is not open.
        """
        return run(self._running.snapshot(label))

    def diff(self) -> list[BranchChange]:
        """Lists the files that have changed since it was forked or, for a root, since its instances were spawned.

        Works in every state, and does not disturb what runs. Cost is in what has changed.

        Returns:
            Changes by instance, in order of path.
        """
        return run(self._running.diff())

    def effects(self) -> list[Effect]:
        """Lists what it has asked the outside world to change, in order, and how each stands.

        Also what was asked for in a fork that was committed into it, and what was dropped. Reads are not recorded.
        """
        return run(self._running.effects())

    def unrecorded(self) -> list[Unrecorded]:
        """Lists what its tree, which replays, has asked for and its recording does not have; the first fifty.

        The boxes got a page with status 599. The tree's end raises `RequestUnknown` if there is any.
        """
        return run(self._running.unrecorded())

    @property
    def mail(self) -> BranchMail:
        """What its instances have sent each other. For messages to one instance, see that instance's own."""
        return BranchMail(self._running.mail)

    @property
    def board(self) -> BranchBoard:
        """What all branches of its tree see at once, whatever becomes of those that posted it."""
        return BranchBoard(self._running)

    def apply(self) -> dict[str, Applied]:
        """Brings the files of its workspaces to the directories of the host, each entirely or not at all.

        Returns:
            What was done, by instance.

        Raises:
            WrongState: It is no root.
            HostDrift: The host's files are not what they were. Nothing was written.
            HostDiskFull, Denied: Nothing of that workspace was written; ``details["applied"]`` names those before it.
        """
        return run(self._running.apply())

    def close(self, *, keep: bool = True) -> None:
        """Ends what runs in it. Of a root nothing is lost: its last state can be applied and gone on from. Idempotent.

        Args:
            keep: Whether to seal it first, and to keep what it has recorded.

        Raises:
            RequestUnknown: It replays, and something was asked for that the recording does not have.
            HostDiskFull, Exhausted, RecordingLost: It records, and the recording was not kept.
        """
        run(self._running.close(keep=keep))
