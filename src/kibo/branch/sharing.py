"""The shared directories of a branch that runs: files that several of its instances have at once, at /shared.

They are a part of the branch as an instance is: sealed with the others, forked, committed, merged and aborted with
them. The warden has one overlay for each branch, of which instances have parts; whoever has one sees at once what the
others write. Programs outside read and write them by way of a box of their own, an empty one, so that whatever a box
has left there is looked at from inside a box.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from kibo.box.define import Box
from kibo.branch.family import Family
from kibo.branch.members import Member
from kibo.branch.worlds import SHARED, InstanceWorld, shared_world
from kibo.model.errors import BranchClosed, InvalidInput, KiboError, PathRefused
from kibo.model.ids import DeltaId
from kibo.model.limits import DEFAULT_DISK_BYTES, DEFAULT_DISK_FILES, MAX_SHARED
from kibo.runtime.fileaccess import FileAccess
from kibo.runtime.forking import on_disk
from kibo.runtime.instance import conversation_of, give_up
from kibo.runtime.session import Session
from kibo.runtime.shareddirs import shareable
from kibo.runtime.states import States
from kibo.store.crash import point

Result = TypeVar("Result")
#: What the warden is told of a part: ``id`` and ``names``.
Part = Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Mounted:
    """One branch's overlay in the warden.

    Attributes:
        session: Whose warden.
        id: What it is called there.
        layers: Its sealed layers, lowest first.
        upper: The layer that it writes to.
        taken: The sealed layers of the point that was taken of it last, the last of which may be a copy.
        clerks: Boxes by which programs outside use directories, by their names.
    """

    session: Session
    id: str
    layers: tuple[str, ...]
    upper: str
    taken: tuple[str, ...]
    clerks: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, session: Session, layers: tuple[str, ...], upper: str) -> Mounted:
        """Has the warden begin one."""
        made = cls(session, secrets.token_hex(8), layers, upper, layers)
        session.order("shared", {"id": made.id, "over": list(layers), "upper": upper})
        return made

    def part(self, names: tuple[str, ...]) -> Part:
        """Describes what an instance has of it."""
        return {"id": self.id, "names": list(names)}

    def end(self) -> None:
        """Lets go of it; instances that have parts keep them until they end. Idempotent."""
        for clerk in self.clerks.values():
            give_up(clerk, "its branch has ended")
        self.clerks.clear()
        with contextlib.suppress(KiboError):  # the runtime is gone, and it with it
            self.session.order("shared_end", {"id": self.id})


class Sharing:
    """The shared directories of one branch.

    Args:
        family: What the branches of its tree share.
        world: What they are when the branch begins; None for none.
        members: The instances of the branch.

    Attributes:
        start: What they were when the branch began.
        sealed: What they were when the branch was sealed last.
    """

    def __init__(
        self, family: Family, world: InstanceWorld | None, members: Callable[[], Iterable[Member]]
    ) -> None:
        self._family = family
        self.start = self.sealed = world or shared_world()
        self._members = members
        self._mounted: Mounted | None = None
        #: Whether the branch has ended: nobody gets a part any more.
        self._ended = False
        #: What they were when another branch took them over, which goes on writing.
        self._left: InstanceWorld | None = None
        #: Held by whoever seals them, and by whoever uses them from outside, or is about to have a part.
        self._lock: Final = family.waiting.lock()

    @property
    def mounted(self) -> Mounted | None:
        """Their overlay, where anybody has had a part of it yet."""
        return self._mounted

    # -- who has them

    @asynccontextmanager
    async def part(self, states: States, names: tuple[str, ...]) -> AsyncIterator[Part | None]:
        """Gives an instance that is made in a block its part; None where it is to have none."""
        if not names:
            yield None
            return
        async with self._lock:
            yield (await self._begun(states)).part(names)

    async def _begun(self, states: States) -> Mounted:
        if self._ended:
            raise BranchClosed(
                "the branch of the shared directories has ended",
                hint="Its files are in its diff, and in the branch that it was committed into.",
            )
        if self._mounted is None or self._mounted.session is not states.session:
            # With the runtime that ran before, all that wrote to what it wrote last has ended.
            self.mount(await self.begin(states, self.world_now()))
        assert self._mounted is not None
        return self._mounted

    async def begin(self, states: States, world: InstanceWorld) -> Mounted:
        """Makes an overlay over what they are in a world, for `mount` or `replace`."""
        short = await self._family.waiting.aside(lambda: self._family.deltas.shortened(world))
        return Mounted.begin(states.session, short.deltas, self._family.owner.new())

    def mount(self, mounted: Mounted) -> None:
        """Goes on with an overlay that lies over what they are."""
        self._mounted = mounted
        self._family.watch.add(self)

    async def fork(self, n: int) -> list[Mounted]:
        """Makes overlays for forks of the branch, over the point that was taken; none where nobody has a part."""
        mounted = self._mounted
        if mounted is None or not any(member.shared for member in self._members()):
            return []
        world = self.world()
        short = await self._family.waiting.aside(lambda: self._family.deltas.shortened(world))
        upper = DeltaId(mounted.upper)
        return [Mounted.begin(mounted.session, short.deltas, upper.beside()) for _ in range(n)]

    # -- what they are

    def world(self) -> InstanceWorld:
        """Describes what of them is sealed."""
        return self.sealed if self._mounted is None else self._described(self._mounted.taken)

    def world_now(self) -> InstanceWorld:
        """Describes them as they are at this moment, what is being written included."""
        if self._left is not None:
            return self._left
        if self._mounted is None:
            return self.sealed
        return self._described((*self._mounted.layers, self._mounted.upper))

    def _described(self, layers: tuple[str, ...]) -> InstanceWorld:
        return shared_world([name for name in layers if self._family.deltas.written(name)])

    def changed(self) -> bool:
        """Tells whether they may be something else than when they were sealed last."""
        now, deltas = self.world_now(), self._family.deltas
        return now != self.sealed and next(deltas.changes(SHARED, self.sealed, now), None) is not None

    async def take(self) -> None:
        """Seals them, or copies them where instances go on writing, which are stopped meanwhile.

        Raises:
            NotLive: A program that writes could not be stopped.
            HostDiskFull: There is no room for a copy.
        """
        if self._mounted is None:
            return
        async with self._lock:
            mounted = self._mounted
            for clerk in mounted.clerks.values():
                await conversation_of(clerk).destroy()
            mounted.clerks.clear()
            order = {"id": mounted.id, "upper": DeltaId(mounted.upper).beside()}
            answer, _ = await mounted.session.ask(self._family.waiting, "shared_seal", order)
            point("shared.sealed")
            mounted.taken = on_disk(answer["layers"])
            (upper,) = on_disk([answer["upper"]])
            if upper != mounted.upper:
                mounted.layers, mounted.upper = mounted.taken, upper

    def take_over(self, other: Sharing, sealed: InstanceWorld | None) -> None:
        """Makes them what those of a branch are that was committed."""
        mounted, other._left = other._mounted, sealed or shared_world()
        other._mounted, other._ended = None, True
        self.replace(mounted, sealed)

    def replace(self, mounted: Mounted | None, sealed: InstanceWorld | None) -> None:
        """Goes on with another overlay, or with none until somebody has a part, and lets go of the one before."""
        if self._mounted is not None:
            self._mounted.end()
        self._mounted = None
        self.sealed = sealed or shared_world()
        if mounted is not None:
            self.mount(mounted)

    def end(self) -> None:
        """Lets go of them, where the branch ends. Idempotent."""
        self._ended = True
        if self._mounted is not None:
            self._mounted.end()

    # -- their disk: see `kibo.branch.watching`

    @property
    def layer(self) -> str:
        """The layer that is written, or empty."""
        return self._mounted.upper if self._mounted is not None and not self._ended else ""

    @property
    def room(self) -> tuple[int, int]:
        """The bytes and files that they may take: as much as the largest of those that have a part may alone."""
        limits = [each.spawned.state.plan.limits for each in self._members() if each.shared]
        return (
            max((limit.disk_bytes or DEFAULT_DISK_BYTES for limit in limits), default=DEFAULT_DISK_BYTES),
            max((limit.disk_files or DEFAULT_DISK_FILES for limit in limits), default=DEFAULT_DISK_FILES),
        )

    def give_up(self, why: str) -> None:
        """Ends all that can write to them: nobody can tell which of them did."""
        for member in list(self._members()):
            if member.shared:
                give_up(member.face, why)
        if self._mounted is not None:
            for clerk in self._mounted.clerks.values():
                give_up(clerk, why)
            self._mounted.clerks.clear()

    # -- from outside

    async def use(self, name: str, work: Callable[[FileAccess], Awaitable[Result]]) -> Result:
        """Has a program outside read or write in one directory, which is made if it is not there."""
        async with self._lock:
            access: FileAccess = (await self._clerk(name))._access
            return await work(access)

    async def _clerk(self, name: str) -> Any:
        states, state = await self._family.ensure(Box(), None)
        mounted = await self._begun(states)
        clerk = mounted.clerks.get(name)
        if clerk is None or conversation_of(clerk).ended:
            spawned = await states.fork(
                self._family.waiting, state, f"files of {name}", shared=mounted.part((name,))
            )
            clerk = mounted.clerks[name] = self._family.instance_face(spawned)
        return clerk


def shared_names(names: Iterable[str]) -> tuple[str, ...]:
    """Checks what shared directories are to be called.

    Raises:
        InvalidInput: One cannot be called so, or there are too many.
    """
    if isinstance(names, str):
        raise InvalidInput(
            f"shared={names!r} is one name, not a list of them", hint=f"Write shared=[{names!r}]."
        )
    found = tuple(dict.fromkeys(names))
    if len(found) > MAX_SHARED:
        raise InvalidInput(
            f"an instance has at most {MAX_SHARED} shared directories, not {len(found)}",
            hint="Make directories in one of them.",
        )
    for name in found:
        if not isinstance(name, str) or not shareable(name):
            raise InvalidInput(
                f"a shared directory cannot be called {str(name)[:80]!r}",
                hint="Give a word of up to 64 letters, digits, dots, dashes and underscores, such as 'notes'.",
            )
    return found


def place_in(name: str, path: str) -> str:
    """Returns where a box sees a path of a shared directory.

    Raises:
        PathRefused: It is absolute, or leads up.
    """
    if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/"):
        raise PathRefused(
            f"not a path in the shared directory {name!r}: {str(path)[:80]!r}",
            hint="Paths begin in the directory, such as 'plan.md' or 'drafts/one.md'.",
        )
    return "/".join((SHARED, name, *(part for part in path.split("/") if part not in ("", "."))))
