"""The instances of one branch: sealed together, forked together, and one made what another is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from kibo.branch.deltas import Deltas
from kibo.branch.hostdir.frozen import Hold
from kibo.branch.worlds import InstanceWorld
from kibo.model.asker import Asker
from kibo.model.errors import NotLive
from kibo.model.limits import BOUNDARY_POLL_S, DEFAULT_DISK_BYTES, DEFAULT_DISK_FILES
from kibo.runtime import forking
from kibo.runtime.conversation import Conversation
from kibo.runtime.forking import Live, Point
from kibo.runtime.instance import conversation_of, give_up, spawned_of
from kibo.runtime.servicing import stop_services
from kibo.runtime.states import Spawned
from kibo.runtime.waiting import Waiting


@dataclass(slots=True, eq=False, weakref_slot=True)
class Member:
    """One instance in one branch.

    Attributes:
        name: What it is called in every branch that has it.
        face: The instance, as its user holds it.
        box: The digest of its definition.
        frozen: Its frozen workspace, or empty.
        start: What it was when it came into the branch.
        sealed: What it was when the branch was sealed last, or came to be.
        left: What it was when the branch ended and another took it over, which goes on writing; None before.
        hold: Keeps its frozen workspace until a snapshot names it.
        shared: Names of the branch's shared directories that it has.
    """

    name: str
    face: Any
    box: str
    frozen: str
    start: InstanceWorld
    sealed: InstanceWorld
    left: InstanceWorld | None = None
    hold: Hold | None = None
    shared: tuple[str, ...] = ()

    def let_go(self) -> None:
        """Lets go of its workspace: a snapshot names it now."""
        if self.hold is not None:
            self.hold.release()

    @property
    def layer(self) -> str:
        """The layer on disk that it writes to; empty once it has ended."""
        return "" if self.talk.ended else self.spawned.upper

    @property
    def room(self) -> tuple[int, int]:
        """The bytes and files that it may take there."""
        limits = self.spawned.state.plan.limits
        return limits.disk_bytes or DEFAULT_DISK_BYTES, limits.disk_files or DEFAULT_DISK_FILES

    def give_up(self, why: str) -> None:
        """Ends it, without waiting."""
        give_up(self.face, why)

    @property
    def talk(self) -> Conversation:
        """The conversation with its guest."""
        return conversation_of(self.face)

    @property
    def spawned(self) -> Spawned:
        """What it consists of."""
        return spawned_of(self.face)

    def world(self, deltas: Deltas) -> InstanceWorld:
        """Describes what of it is sealed."""
        return self._described([name for name in self.spawned.taken if deltas.written(name)])

    def world_now(self, deltas: Deltas) -> InstanceWorld:
        """Describes it as it is at this moment, what it may be writing included."""
        if self.left is not None:
            return self.left
        spawned = self.spawned
        names = [*spawned.deltas, *((spawned.upper,) if spawned.upper else ())]
        return self._described([name for name in names if deltas.written(name)])

    def _described(self, names: Sequence[str]) -> InstanceWorld:
        return described(self.spawned, self.box, tuple(names), self.talk.acts, self.frozen, self.shared)

    def changed(self, deltas: Deltas) -> bool:
        """Tells whether it may be something else than when it was sealed last."""
        now = self.world_now(deltas)
        if now == self.sealed or now.turns != self.sealed.turns:
            return now != self.sealed
        # Other layers may show the same: those of one that was copied because programs run in it.
        return next(deltas.changes(self.name, self.sealed, now), None) is not None

    async def stop_services(self, waiting: Waiting) -> None:
        """Stops its services in good order, if it runs and has any."""
        talk = self.talk
        if self.spawned.state.plan.env.services and not talk.ended and not talk.parked:
            await stop_services(waiting, talk.session, talk.instance)

    async def take(self, waiting: Waiting, live: Live) -> Point:
        """Seals it; see `forking.take`. The caller has its turn."""
        point = await forking.take_held(waiting, self.spawned, self.talk, live)
        self.face._access.close()  # its server does not come along
        return point

    async def take_busy(self, waiting: Waiting) -> Point:
        """Seals what its files are in the middle of a call; see `forking.take_busy`."""
        return await forking.take_busy(waiting, self.spawned, self.talk)

    async def fork(
        self,
        waiting: Waiting,
        deltas: Deltas,
        point: Point,
        n: int,
        live: Live,
        askers: Sequence[Asker],
        parts: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[list[Spawned], Point]:
        """Makes forks of it from a point: live, or with fresh guests over its files, whose layers are joined first.

        Returns:
            The forks, and the point as they are of it: live, or why not.

        Raises:
            KiboError: As `forking.fork`.
        """
        spawned = self.spawned
        if point.cell:
            try:
                made = await forking.fork(
                    waiting, spawned, point, n, durable=True, askers=askers, parts=parts
                )
                return made, point
            except NotLive as error:
                if live == "require":
                    raise
                point = replace(point, cell="", reasons=(error.message,))
        world = self.world(deltas)
        short = await waiting.aside(lambda: deltas.shortened(world))
        made = await forking.fork(
            waiting, spawned, point, n, durable=True, over=short.deltas, askers=askers, parts=parts
        )
        return made, point


def described(
    spawned: Spawned,
    box: str,
    deltas: tuple[str, ...],
    turns: int,
    frozen: str,
    shared: tuple[str, ...] = (),
) -> InstanceWorld:
    """Describes an instance as a snapshot keeps it."""
    built = spawned.state.built
    layers = tuple(layer.path.parent.name for layer in built.layers)
    label = " + ".join(part.name for part in spawned.state.plan.parts) or "Box()"
    return InstanceWorld(box, label, layers, deltas, turns, frozen, shared)


@asynccontextmanager
async def turns(members: Iterable[Member], check: Callable[[], None]) -> AsyncIterator[None]:
    """Waits until nothing is called in any of them, and keeps it so.

    Args:
        members: The instances of one branch.
        check: Called again and again while it waits: raises where that would be in vain.
    """

    async def at_boundary(_member: Member) -> bool:
        check()
        return False

    async with turns_or_boundary(members, at_boundary):
        yield


@asynccontextmanager
async def turns_or_boundary(
    members: Iterable[Member], at_boundary: Callable[[Member], Awaitable[bool]]
) -> AsyncIterator[set[str]]:
    """As `turns`, except for those whose call waits for an effect that the branch holds: that ends after a commit.

    Args:
        members: The instances of one branch.
        at_boundary: Tells whether one waits so.

    Yields:
        The names of those that wait, in a call or beside all calls, and so are not to be sealed.
    """
    waiting: set[str] = set()
    async with AsyncExitStack() as held:
        for member in sorted(members, key=lambda each: each.name):
            while True:
                turn = member.talk.turn
                if await turn.within(BOUNDARY_POLL_S):
                    held.push_async_exit(turn)
                    if turn is member.talk.turn:
                        if await at_boundary(member):
                            waiting.add(member.name)
                        break
                elif await at_boundary(member):
                    waiting.add(member.name)
                    break
        yield waiting
