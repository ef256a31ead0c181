"""A branch, as a program of coroutines holds it: `kibo.branch.branch` has the same for plain ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kibo.box.define import Box
from kibo.branch.async_mail_faces import AsyncBranchBoard, AsyncBranchMail
from kibo.branch.async_shared_face import AsyncSharedDirectory
from kibo.branch.deltas import BranchChange
from kibo.branch.face import EVERYTHING, BranchFace, InstanceT, Onto
from kibo.branch.hostdir.apply import Applied
from kibo.branch.records import Committed, SnapshotRecord, Status, Undone
from kibo.branch.sharing import shared_names
from kibo.effects.records import Effect
from kibo.model.telling import telling
from kibo.runtime.forking import Live
from kibo.runtime.states import Progress
from kibo.runtime.trees.conflict import Resolver

if TYPE_CHECKING:
    from kibo.context.async_context import AsyncContext
    from kibo.effects.unrecorded import Unrecorded


class AsyncBranch(BranchFace[InstanceT]):
    """A branch whose calls are coroutines. What each takes, returns and raises is said at `kibo.branch.branch.Branch`.

    Cancelled, a call has either done nothing or all of it: once the history has recorded a fork, a commit, a merge or
    a snapshot, the call returns what it made, and its caller's next wait is told of the cancellation. An abort is
    carried out in any case. Nothing that was made for a call that did not happen goes on running.

    An async context manager: a block that ends well, or with an error, seals the branch as it ends; one that is
    cancelled ends what runs at once, and the branch's last snapshot is what is left of it.
    """

    def __repr__(self) -> str:
        return f"<aio.Branch {self.name or self.id}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with telling(error):
            await self.close(keep=error is None or isinstance(error, Exception))

    async def status(self) -> Status:
        """Tells where it is in its life; see `Branch.status`."""
        return await self._running.status()

    @property
    def context(self) -> AsyncContext:
        """What an agent knows in it; see `Branch.context`."""
        from kibo.context.async_context import AsyncContext  # late: not every branch has an agent in it

        return AsyncContext(self._running.context, self._running.family.waiting.aside)

    async def spawn(
        self,
        box: Box,
        *,
        workspace: str | os.PathLike[str] | None = None,
        name: str = "",
        shared: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> InstanceT:
        """Makes an instance in the branch. Cancelled, it leaves none."""
        instance: InstanceT = await self._running.spawn(box, workspace, name, progress, shared)
        return instance

    def shared(self, name: str) -> AsyncSharedDirectory:
        """Returns one of its shared directories, to read and write from here; see `Branch.shared`."""
        (checked,) = shared_names([name])
        return AsyncSharedDirectory(self._running, checked)

    async def fork(self, n: int = 1, *, names: Sequence[str] = (), live: Live = "prefer") -> list[Self]:
        """Makes branches that begin where this one is. Cancelled, it leaves none, or returns all of them."""
        return [child.face for child in await self._running.fork(n, names, live)]

    async def commit(
        self,
        *,
        onto: Onto = "unmoved",
        reads: Sequence[str] = EVERYTHING,
        overwrite: bool = False,
    ) -> Committed:
        """Makes the parent what this branch is. Cancelled, it did not happen, or returns what it did."""
        return await self._running.commit(onto, reads, overwrite=overwrite)

    async def merge(self, resolver: Resolver | None = None) -> Committed:
        """Joins what this branch and its parent have become since the fork. Cancelled, as `commit`.

        Args:
            resolver: Called for each conflict, in a thread: a plain function. One that is being called is waited for.
        """
        return await self._running.merge(resolver, None)

    async def abort(self) -> Undone:
        """Ends it and all that was forked from it. Cancelled, it is carried out all the same. Idempotent."""
        return await self._running.abort()

    async def snapshot(self, label: str = "") -> SnapshotRecord:
        """Seals what it is, to come back to. Cancelled, there is none, or it is returned."""
        return await self._running.snapshot(label)

    async def diff(self) -> list[BranchChange]:
        """Lists the files that have changed since it was forked or, for a root, since its instances were spawned."""
        return await self._running.diff()

    async def effects(self) -> list[Effect]:
        """Lists what it has asked the outside world to change, in order, and how each stands; see `Branch.effects`."""
        return await self._running.effects()

    async def unrecorded(self) -> list[Unrecorded]:
        """Lists what its tree, which replays, has asked for and its recording does not have."""
        return await self._running.unrecorded()

    @property
    def mail(self) -> AsyncBranchMail:
        """What its instances have sent each other. For messages to one instance, see that instance's own."""
        return AsyncBranchMail(self._running.mail)

    @property
    def board(self) -> AsyncBranchBoard:
        """What all branches of its tree see at once, whatever becomes of those that posted it."""
        return AsyncBranchBoard(self._running)

    async def apply(self) -> dict[str, Applied]:
        """Brings the files of its workspaces to the directories of the host.

        Cancelled while it writes to the host, it writes all of it and returns.
        """
        return await self._running.apply()

    async def close(self, *, keep: bool = True) -> None:
        """Ends what runs in it and in all that was forked from it, calls that are under way included. Idempotent.

        Cancelled while services stop, it ends everything at once, without sealing it.

        Args:
            keep: Whether to seal it first.
        """
        waiting = self._running.family.waiting
        try:
            await self._running.close(keep=keep)
        except Exception:
            raise
        except BaseException:
            await waiting.whole(self._running.close(keep=False))
            raise
