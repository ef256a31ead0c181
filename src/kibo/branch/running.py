"""A branch that runs in this process: its instances, and what becomes of all of them at once.

Structure is decided in the history, by one transaction; what runs follows it. Whoever forks or commits first waits
until nothing is called in the instances that it seals, then takes the tree's lock, never the other way round.
"""

from __future__ import annotations

import os
import reprlib
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from kibo.box.define import Box
from kibo.branch import joining
from kibo.branch.deltas import BranchChange
from kibo.branch.ending import Ending
from kibo.branch.family import Family
from kibo.branch.hostdir.apply import Applied
from kibo.branch.hostdir.freeze import freeze
from kibo.branch.hostdir.frozen import Frozen
from kibo.branch.hostdir.staging import HOST_BITS
from kibo.branch.mail import Mail
from kibo.branch.mailroom import AwaitsAnother, Mailroom
from kibo.branch.marks import numbered
from kibo.branch.members import Member, described, turns, turns_or_boundary
from kibo.branch.points import Points, refuse_running
from kibo.branch.records import BranchRecord, Committed, SnapshotRecord, Status, Undone
from kibo.branch.releasing import Releasing, asker_for
from kibo.branch.sharing import Mounted, Part, Sharing, place_in, shared_names
from kibo.branch.undoing import Undoing
from kibo.branch.worlds import (
    SHARED,
    InstanceWorld,
    World,
    is_on_disk,
    labels,
    shared_world,
    to_json,
    world_of,
)
from kibo.effects.records import Called, Effect, Exact
from kibo.effects.sessions.content import Manifest
from kibo.hub.board import Board
from kibo.hub.mailboxes import Mailboxes
from kibo.hub.post import Post
from kibo.model.errors import (
    BranchClosed,
    BranchStale,
    BranchTaken,
    InstanceEnded,
    InstanceUnknown,
    InvalidInput,
    KiboError,
    NotFound,
    UnmetNeed,
    WrongState,
)
from kibo.model.ids import BranchId
from kibo.runtime import forking
from kibo.runtime.callers import Tally
from kibo.runtime.conversation import Conversation
from kibo.runtime.fileaccess import FileAccess
from kibo.runtime.forking import Live, Point
from kibo.runtime.instance import adopt, conversation_of, spawned_of, was_destroyed
from kibo.runtime.states import Progress, Spawned, States
from kibo.runtime.trees.conflict import Resolver
from kibo.store.crash import point as crash_point

if TYPE_CHECKING:
    from kibo.context.context import Context
    from kibo.effects.unrecorded import Unrecorded

Result = TypeVar("Result")
#: Why nothing runs in a branch any more.
Ended = Literal["committed", "aborted", "stale", "closed"]
NOT_THERE: Final = "the branch that was committed does not have it"


class RunningBranch:
    """One branch and the instances in it.

    Attributes:
        id: Its name for ever.
        name: What people call it.
        goal: What it is for; of a root.
        parent: The branch that it commits into, or None for a root.
        live: Whether its instances have the live state of those that they were forked from.
        reasons: What stood in the way of that.
    """

    def __init__(
        self, family: Family, record: BranchRecord, parent: RunningBranch | None, base: World
    ) -> None:
        self.family = family
        self.id: BranchId = record.id
        self.name = record.name
        self.goal = record.goal
        self.parent = parent
        self.live = True
        self.reasons: tuple[str, ...] = ()
        self.members: dict[str, Member] = {}
        #: What its instances have in common.
        self.sharing = Sharing(family, base.get(SHARED), lambda: list(self.members.values()))
        self.face: Any = family.branch_face(self)
        #: Those forked from it that may still end otherwise than it does: not those that were aborted.
        self._children: dict[str, RunningBranch] = {}
        #: Where it commits into what this process does not run; None for a root.
        self._elsewhere = record.parent if parent is None else None
        self._is_root = record.parent is None
        #: On whose behalf its instances ask for something outside.
        self.asker = asker_for(record, family)
        self.releasing = Releasing(family, record.id)
        #: What its boxes have loaded of sessions, or saved last: a fork's boxes begin with the same.
        self.loaded: dict[tuple[str, str], Manifest] = {} if parent is None else dict(parent.loaded)
        #: What it writes with: refused once another process has taken the branch over.
        self._epoch = record.epoch
        self._sealed_names: set[str] = set(base)
        self._forks = 0
        #: Those of its forks that have not ended.
        self._forks_alive: set[RunningBranch] = set()
        #: The last number of its log when it began.
        self._begun_seq = record.seq
        self._tree = record.tree
        self._mail: Mail | None = None
        #: Why nothing runs in it any more; empty while it does.
        self._ended: Ended | Literal[""] = ""
        #: Whether it was ended, and the history could not be told: that is still to be done.
        self._untold = False
        self._pid = os.getpid()
        #: Whether it has ended, and its instances have undone what it had done, or are at it: they end with that.
        self._undoes = False
        family.running[self.id] = self
        if parent is None:
            family.owner.begin(self.id)

    @property
    def ended(self) -> Ended | Literal[""]:
        """Why nothing runs in it any more; empty while it does."""
        return self._ended

    # -- mail

    @property
    def mail(self) -> Mail:
        """What its instances say to each other. For coroutines, first asked for on their loop."""
        if self._mail is None:
            self._mail = self._make_mail(None)
        return self._mail

    def _make_mail(self, known: Mailboxes | None) -> Mail:
        def make_post(changed: Callable[[], None]) -> Post:
            family = self.family
            return Post(family.history.log, self.id, self._epoch, changed, known, family.telling)

        def members() -> Mapping[str, Member]:
            return dict(self.members)

        self.family.listen()
        room = Mailroom(self.family.waiting, make_post, members, self._rests)
        record = partial(self.family.history.get, self.id)
        return Mail(self.name or self.id, room, members, self._knows, record, self.family.owner)

    def look_for_mail(self) -> None:
        """Looks for what another process has written."""
        if self._mail is not None:
            self._mail.look_again()

    @property
    def board(self) -> Board:
        """What all branches of its tree see at once."""
        return Board(self.family.history.store, self._tree, self.id)

    def _knows(self, face: Any) -> bool:
        """Tells whether an instance is of this tree: another's of the same name is another."""
        running = getattr(face.branch, "_running", None)
        return isinstance(running, RunningBranch) and running.family is self.family

    def _rests(self, seq: int) -> bool:
        """Tells whether to deliver a letter would make forks stale that can be committed as they are."""
        return any(child._begun_seq == seq for child in list(self._forks_alive))

    @asynccontextmanager
    async def _still(self) -> AsyncIterator[None]:
        """Has its mail rest during a block that seals it."""
        if self._mail is None:
            yield
        else:
            async with self._mail.room.still(self._boundary_of_all):
                yield

    def _boundary_of_all(self) -> bool:
        self._check_unasked()
        return self.waits_at_boundary()

    def _check_unasked(self) -> None:
        for branch in (self, self.parent):
            if branch is not None and branch._mail is not None:
                branch._mail.room.check_unasked()

    async def _sealing(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Does what waits until nothing is called in its instances; anew, where one waited for what another was to do.

        Holding the turn of that other, and keeping its mail from it, would wait for ever.
        """
        while True:
            try:
                return await work()
            except AwaitsAnother:
                for branch in (self, self.parent):
                    if branch is not None and branch._mail is not None:
                        await branch._mail.room.unasked()

    # -- instances

    async def spawn(
        self,
        box: Box,
        workspace: str | os.PathLike[str] | None,
        name: str,
        progress: Progress | None,
        shared: Iterable[str] = (),
    ) -> Any:
        """Makes an instance in the branch; see `Branch.spawn`."""
        self._check()
        directories = shared_names(shared)
        if name == SHARED:
            raise InvalidInput(f"an instance cannot be called {name!r}", hint="Leave the slash out.")
        family = self.family
        states, state = await family.ensure(box, progress)
        frozen: Frozen | None = None
        if workspace is not None:
            keeper, home = family.keeper(state.plan.env.user == "root"), family.deltas.home
            frozen = await family.waiting.aside(
                lambda: freeze(workspace, home, owner=keeper, progress=progress, flush=False)
            )
            family.flusher.add(frozen.id)
            crash_point("spawn.frozen")
        over: tuple[str, ...] = frozen.deltas if frozen is not None else ()
        async with self.sharing.part(states, directories) as part:
            spawned = await states.fork(
                family.waiting,
                state,
                name,
                upper=family.owner.new(),
                over=over,
                asker=self.asker,
                shared=part,
            )
        crash_point("spawn.made")
        try:
            async with family.lock:
                self._check()
                called = self._free_name(name or "+".join(part.name for part in state.plan.parts) or "Box")
                named = frozen.id if frozen is not None else ""
                member = self._member(called, spawned, box.digest, named, directories)
                member.hold = frozen.hold if frozen is not None else None
                return member.face
        except BaseException:
            forking.discard(spawned)
            raise

    async def use_shared(
        self, name: str, path: str, work: Callable[[FileAccess, str], Awaitable[Result]]
    ) -> Result:
        """Has a program outside of its boxes use a path of one of its shared directories; see `SharedDirectory`."""
        place = place_in(name, path)
        self._check_open()
        with self._saying_why():
            return await self.sharing.use(name, lambda files: work(files, place))

    async def diff_shared(self, name: str) -> list[BranchChange]:
        """Lists what has changed in one of its shared directories; see `SharedDirectory.diff`."""
        deltas, start, now = self.family.deltas, self.sharing.start, self.sharing.world_now()
        place = f"{SHARED}/{name}/"
        return await self.family.waiting.aside(
            lambda: [
                change
                for change in deltas.changes(SHARED, start, now, HOST_BITS)
                if change.path.startswith(place)
            ]
        )

    def __getitem__(self, instance: Any) -> Any:
        """Returns the same instance in this branch; see `Branch.__getitem__`."""
        name = instance if isinstance(instance, str) else getattr(instance, "_member", None)
        self._forget_destroyed()
        member = self.members.get(name) if isinstance(name, str) else None
        if member is None:
            known = ", ".join(sorted(self.members)) or "none"
            raise InstanceUnknown(
                f"branch {self.name or self.id} has no instance {name or instance!r}",
                hint=f"It has: {known}. Instances that were spawned elsewhere, or after it was forked, are not in it.",
                details={"branch": self.id},
            )
        return member.face

    async def restore(self, boxes: Sequence[Box]) -> None:
        """Spawns the instances of the branch's head, with fresh guests over their files. Aborts it if it cannot.

        Raises:
            UnmetNeed: The definition of one is not among the boxes.
        """
        try:
            await self._restore(boxes)
        except BaseException:
            await self.abort()
            raise

    async def _restore(self, boxes: Sequence[Box]) -> None:
        family = self.family
        head = await family.waiting.aside(lambda: family.history.find_snapshot(self.id))
        known = {box.digest: box for box in boxes}
        world = world_of(head)
        shared = world.pop(SHARED, None)
        missing = labels({name: each for name, each in world.items() if each.box not in known})
        if missing:
            raise UnmetNeed(
                f"the snapshot has instances of {', '.join(missing)}, whose definitions were not given",
                hint="Give each box as it was: kibo.checkout(ref, Coder()).",
                details={"labels": list(missing)},
            )
        if shared is not None:
            self.sharing.start = self.sharing.sealed = shared
        for name, each in world.items():
            states, state = await family.ensure(known[each.box], None)
            short = await family.waiting.aside(partial(family.deltas.shortened, each))
            crash_point("restore.shortened")
            async with self.sharing.part(states, each.shared) as part:
                spawned = await states.fork(
                    family.waiting,
                    state,
                    upper=family.owner.new(),
                    over=short.deltas,
                    asker=self.asker,
                    shared=part,
                )
            self._member(name, spawned, each.box, each.frozen, each.shared, short)
        if any(member.talk.plan.handlers for member in self.members.values()):
            mail = self.mail  # on the loop, if there is one
            await family.waiting.aside(mail.room.look)

    def _member(
        self,
        name: str,
        spawned: Spawned,
        box: str,
        frozen: str,
        shared: tuple[str, ...],
        sealed: InstanceWorld | None = None,
    ) -> Member:
        start = described(spawned, box, spawned.deltas, 0, frozen, shared)
        face = self.family.instance_face(spawned)
        member = Member(name, face, box, frozen, sealed or start, sealed or start, shared=shared)
        face.branch, face._member = self.face, name
        self.members[name] = member
        self.family.watch.add(member)
        plan, talk = spawned.state.plan, conversation_of(face)
        if plan.egress or plan.env.services:
            talk.goes_on = lambda waiting: forking.go_on(waiting, spawned_of(face), talk)
        if sealed is not None:
            talk.acts = sealed.turns
        return member

    def faces(self) -> dict[str, Any]:
        """Returns its instances, as its user holds them, by name."""
        self._forget_destroyed()
        return {name: member.face for name, member in self.members.items()}

    def _free_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.members:
            number += 1
            name = f"{wanted}-{number}"
        return name

    def tally(self) -> Tally:
        """Counts the instances and the branches that live in it and below it."""
        total, pending = Tally(), [self]
        while pending:
            branch = pending.pop()
            if not branch._ended:
                total += Tally(len(branch.members), 1)
            pending += branch._children.values()
        return total

    # -- forks

    async def fork(self, n: int, names: Sequence[str], live: Live) -> list[RunningBranch]:
        """Makes branches that begin where this one is; see `Branch.fork`."""
        forking.check_wanted(n, live)
        if len(_listed(names, "names", "a name")) > n:
            raise InvalidInput(f"{len(names)} names for {n} branches", hint="Give at most one name a branch.")
        self._check()
        return await self._sealing(partial(self._fork, n, names, live))

    async def _fork(self, n: int, names: Sequence[str], live: Live) -> list[RunningBranch]:
        members = list(self.members.values())
        made: dict[str, list[Spawned]] = {}
        overlays: list[Mounted] = []
        # Before they are recorded: their instances may ask for something as soon as they run.
        ids = [BranchId.new() for _ in range(n)]
        askers = [self.asker._replace(branch=each, holds=True) for each in ids]
        async with self._still(), self._turns(), self._points(members, live) as points:
            self._check()
            reasons: list[str] = []
            try:
                overlays = await self.sharing.fork(n)
                for member, point in zip(members, points, strict=True):
                    parts = [each.part(member.shared) for each in overlays] if member.shared else ()
                    with self._saying_why():
                        made[member.name], how = await member.fork(
                            self.family.waiting, self.family.deltas, point, n, live, askers, parts
                        )
                    reasons += [f"{member.name}: {reason}" for reason in how.reasons]
                crash_point("fork.made")
                called = [*names, *(numbered(self.name, self._forks + each) for each in range(len(names), n))]
                world = self._sealed_world()
                async with self.family.lock:
                    self._check()
                    records = await self.family.waiting.aside(
                        lambda: self.family.history.fork(
                            self.id,
                            n,
                            world=to_json(world),
                            names=called,
                            epoch=self._epoch,
                            flushed=is_on_disk(world),
                            ids=ids,
                        )
                    )
                    crash_point("fork.recorded")
                    self._note_sealed(world, str(records[0].base))
                    self._forks += n
                    # Whoever ends this branch next ends these with it.
                    return self._born(records, world, members, made, overlays, reasons)
            except BaseException:
                for spawned in (each for forks in made.values() for each in forks):
                    forking.discard(spawned)
                for overlay in overlays:
                    overlay.end()
                raise

    def _born(
        self,
        records: Sequence[BranchRecord],
        world: World,
        members: Iterable[Member],
        made: Mapping[str, Sequence[Spawned]],
        overlays: Sequence[Mounted],
        reasons: Sequence[str],
    ) -> list[RunningBranch]:
        children = [RunningBranch(self.family, record, self, world) for record in records]
        for index, child in enumerate(children):
            child.live, child.reasons = not reasons, tuple(reasons)
            for member in members:
                spawned = made[member.name][index]
                child._member(
                    member.name, spawned, member.box, member.frozen, member.shared, world[member.name]
                )
            if overlays:
                child.sharing.mount(overlays[index])
        self._children |= {child.id: child for child in children}
        self._forks_alive.update(children)
        if self._mail is not None:
            known = self._mail.post.share()
            for child in children:
                child._mail = child._make_mail(
                    known if known is not None and known.seq == child._begun_seq else None
                )
                child._mail.room.look()
        return children

    def child(self, name: str) -> RunningBranch:
        """Makes a branch that begins where this one was sealed last; it has no instances yet. Waits for the disk."""
        self._check()
        (made,) = self.family.history.fork(self.id, names=[name], epoch=self._epoch)
        return self.adopt(made)

    def adopt(self, record: BranchRecord) -> RunningBranch:
        """Makes a branch that history has as this one's child a child of it here too; it has no instances yet."""
        child = RunningBranch(self.family, record, self, {})
        self._children[child.id] = child
        self._forks_alive.add(child)
        return child

    @asynccontextmanager
    async def _points(
        self, members: Iterable[Member], live: Live, busy: Container[str] = ()
    ) -> AsyncIterator[list[Point]]:
        """Seals instances for as long as they are forked from. The caller has the turns of all that are not busy."""
        taken: list[tuple[Member, Point]] = []
        waiting = self.family.waiting
        try:
            with self._saying_why():
                for member in members:
                    try:
                        with waiting.undivided():
                            take = (
                                member.take_busy(waiting)
                                if member.name in busy
                                else member.take(waiting, live)
                            )
                            taken.append((member, await take))
                    except InstanceEnded as error:
                        self._check()
                        raise _ended_by_itself(member, error) from error
                await self.sharing.take()
            yield [point for _, point in taken]
        finally:
            for member, point in taken:
                forking.drop(member.spawned, point)

    def _sealed_world(self) -> dict[str, InstanceWorld]:
        world = {name: member.world(self.family.deltas) for name, member in self.members.items()}
        return {**world, **_named(self.sharing.world())}

    def _world_now(self) -> dict[str, InstanceWorld]:
        world = {name: member.world_now(self.family.deltas) for name, member in self.members.items()}
        return {**world, **_named(self.sharing.world_now())}

    def _let_go(self) -> None:
        for member in self.members.values():
            member.let_go()

    def _note_sealed(self, world: World, snapshot: str) -> None:
        self._sealed_names = set(world)
        for name, member in self.members.items():
            member.sealed = world[name]
        self.sharing.sealed = world.get(SHARED, self.sharing.sealed)
        self._let_go()
        if not is_on_disk(world):
            self.family.flusher.add(snapshot)

    # -- snapshots

    async def snapshot(self, label: str) -> SnapshotRecord:
        """Seals what the branch is; see `Branch.snapshot`."""
        self._check()
        return await self._sealing(partial(self._snapshot, label))

    async def _snapshot(self, label: str) -> SnapshotRecord:
        async with self._still(), self._turns():
            return await self._snapshot_held(label)

    def _turns(self) -> AbstractAsyncContextManager[None]:
        """Waits until nothing is called in its instances, and keeps it so."""
        return turns(list(self.members.values()), self._check_unasked)

    async def _snapshot_held(self, label: str = "") -> SnapshotRecord:
        async with self._points(list(self.members.values()), "prefer"), self.family.lock:
            self._check()
            world = self._sealed_world()
            crash_point("seal.taken")
            made = await self.family.waiting.aside(
                lambda: self.family.history.snapshot(
                    self.id, to_json(world), label, epoch=self._epoch, flushed=is_on_disk(world)
                )
            )
            crash_point("seal.recorded")
            self._note_sealed(world, made.id)
            return made

    # -- ends

    async def commit(self, onto: str, reads: Sequence[str], *, overwrite: bool) -> Committed:
        """Makes the parent what this branch is; see `Branch.commit`."""
        if onto == "validated":
            return await self.merge(None, _listed(reads, "reads", "a pattern"))
        if onto != "unmoved":
            raise InvalidInput(
                f"onto={onto!r} says nothing",
                hint='Write onto="validated", or leave it out to commit where the parent has not moved.',
            )
        if overwrite and self._ended == "stale":
            return await self._join(lambda base, ours, theirs: dict(theirs), overwrite=True)
        self._check()
        if self._elsewhere is not None:
            await self.family.waiting.aside(partial(self._refuse_running, self._elsewhere))
        await self.releasing.bury()
        async with self._ending() as ending:
            done, told = await self._sealing(partial(self._commit_unmoved, ending, overwrite=overwrite))
            await self.family.waiting.whole(ending.stop())
            done = await self.releasing.outcomes(done, told)
        return replace(done, undone=ending.undone)

    @asynccontextmanager
    async def _ending(self) -> AsyncIterator[Ending]:
        """Undoes at the end of a block, however it ends, what branches had done that it made stale."""
        ending = Ending(self.family)
        try:
            yield ending
        finally:
            if ending.spares:
                await self.family.waiting.whole(ending.undo(stale=True))

    async def _commit_unmoved(
        self, ending: Ending, *, overwrite: bool
    ) -> tuple[Committed, socket.socket | None]:
        parent, waiting = self.parent, self.family.waiting
        members, theirs = list(self.members.values()), list(parent.members.values()) if parent else []
        async with (
            self._still(),
            turns_or_boundary(members, self._at_boundary) as busy,
            turns_or_boundary(theirs, self._parents_boundary),
        ):
            self._check()
            if parent is not None and parent._moved():
                await parent._snapshot_held()
            async with self._points(members, "prefer", busy), self.family.lock:
                self._check()
                world = self._sealed_world()
                with waiting.undivided():
                    done = await waiting.aside(lambda: self._record_commit(world, overwrite=overwrite))
                    crash_point("commit.recorded")
                    self._note_sealed(world, done.head)
                    if parent is None:
                        self._stop("committed", ending)
                    else:
                        parent._take_over(self, world, ending)
                    return done, await waiting.aside(lambda: self._tell_gateway(done))

    # -- context

    @property
    def context(self) -> Context:
        """What an agent knows in it; see `Branch.context`."""
        from kibo.context.context import Context, Place  # late: not every branch has an agent in it
        from kibo.context.writing import Writer

        log = self.family.history.log
        writer = Writer(log, self.id, self._epoch, self._check_open)
        return Context(Place(log, self.id, writer, None if self._is_root else self._context_above))

    def _context_above(self) -> Context:
        if self.parent is not None:
            return self.parent.context
        from kibo.context.context import Context, Place  # late, as above
        from kibo.context.writing import Writer

        log, parent = self.family.history.log, str(self._elsewhere)
        return Context(Place(log, parent, Writer(log, parent, None, lambda: None)))

    # -- effects

    async def undo(self, exact: Exact) -> None:
        """Has an instance undo a call that one of its definition made elsewhere, and that is to be undone."""

        def like(exact: Exact) -> Conversation | None:
            box = exact.payload.box if isinstance(exact.payload, Called) else ""
            return next((each.talk for each in self.members.values() if each.talk.plan.digest == box), None)

        await self.family.waiting.whole(Undoing(self.family, like).undo(exact))

    async def effects(self) -> list[Effect]:
        """Lists what it has asked the outside world for; see `Branch.effects`."""
        return await self.releasing.listed()

    def waits_at_boundary(self) -> bool:
        """Tells whether all that is called in it waits for effects that it holds, and something does."""
        return not self._ended and self.releasing.waits(self.members.values())

    async def _at_boundary(self, member: Member) -> bool:
        self._check()
        self._check_unasked()
        return await self.releasing.at_boundary(member)

    async def _refuse_boundary(self, member: Member) -> bool:
        """What waits in the middle of a call would be lost, where its instance becomes another."""
        if self._ended or not await self._at_boundary(member):
            return False
        raise WrongState(
            f"{member.name} of branch {self.name or self.id} waits for an effect that the branch holds",
            hint="commit() that branch as it is, or abort() it.",
            details={"branch": self.id, "instance": member.name},
        )

    async def _parents_boundary(self, member: Member) -> bool:
        assert self.parent is not None
        return await self.parent._refuse_boundary(member)

    def _tell_gateway(self, done: Committed) -> socket.socket | None:
        parent = self.parent
        asker = (
            parent.asker
            if parent is not None
            else asker_for(self.family.history.get(done.parent), self.family)
        )
        return self.releasing.tell(done, asker)

    async def merge(self, resolver: Resolver | None, reads: Sequence[str] | None) -> Committed:
        """Joins what this branch and its parent have become; see `Branch.merge` and `Branch.commit`.

        Args:
            resolver: Asked for each conflict.
            reads: Where the parent must not have changed; None for anywhere goes.
        """
        deltas = self.family.deltas
        return await self._join(lambda *sides: joining.join(deltas, sides, resolver, reads), overwrite=False)

    async def _join(self, decide: Callable[[World, World, World], World], *, overwrite: bool) -> Committed:
        """Gives the parent a world that is made of three: of the base, of its own and of this branch's."""
        if self._ended != "stale":
            self._check()
        parent = self.parent
        if parent is None:
            raise WrongState(
                f"branch {self.id} has no parent that runs in this process",
                hint="Check the parent out here, and fork from it.",
                details={"branch": self.id},
            )
        parent._check()
        await self.releasing.bury()
        async with self._ending() as ending:
            done, told = await self._sealing(partial(self._join_held, decide, ending, overwrite=overwrite))
            await self.family.waiting.whole(ending.stop())
            done = await self.releasing.outcomes(done, told)
        return replace(done, undone=ending.undone)

    async def _join_held(
        self, decide: Callable[[World, World, World], World], ending: Ending, *, overwrite: bool
    ) -> tuple[Committed, socket.socket | None]:
        family, parent = self.family, self.parent
        assert parent is not None
        async with (
            self._still(),
            parent._still(),
            turns_or_boundary(self.members.values(), self._refuse_boundary),
            turns_or_boundary(parent.members.values(), self._parents_boundary),
        ):
            ours = await parent._snapshot_held()
            # A stale one runs no more; its files are what it left.
            theirs = await (self._snapshot_left() if self._ended else self._snapshot_held())
            base = await family.waiting.aside(self._base_snapshot)
            sides = (world_of(base), world_of(ours), world_of(theirs))
            merged = await family.waiting.aside(lambda: decide(*sides))
            crash_point("merge.decided")
            lively = {} if self._ended else self.members
            kept = {name for name in merged if name in lively and merged[name] == sides[2].get(name)}
            overlay = self.sharing.mounted
            if self._ended or merged.get(SHARED) != sides[2].get(SHARED):
                # What goes on by itself goes on with what it shares.
                overlay, kept = None, {name for name in kept if not merged[name].shared}

            async def part(states: States, world: InstanceWorld) -> Part | None:
                nonlocal overlay
                if not world.shared:
                    return None
                if overlay is None:
                    overlay = await parent.sharing.begin(states, merged.get(SHARED, shared_world()))
                return overlay.part(world.shared)

            fresh: dict[str, Spawned] = {}
            try:
                fresh = await joining.revive(
                    family, merged, sides[1], kept, parent.members, self.members, self.asker, part
                )
                crash_point("merge.revived")
                async with family.lock:
                    with family.waiting.undivided():
                        done = await family.waiting.aside(
                            lambda: (
                                self._record_commit(merged, overwrite=True)
                                if overwrite
                                else self._record_merge(merged, (ours.id, theirs.id))
                            )
                        )
                        crash_point("merge.recorded")
                        parent._become_merged(self, kept, fresh, overlay, merged, ending)
                        fresh, overlay = {}, None  # the parent's now
                        told = await family.waiting.aside(lambda: self._tell_gateway(done))
            except BaseException:
                for spawned in fresh.values():
                    forking.discard(spawned)
                if overlay is not None and overlay not in (self.sharing.mounted, parent.sharing.mounted):
                    overlay.end()
                raise
            family.flusher.add(done.head)
            return done, told

    def _record_merge(self, world: World, heads: tuple[str, str]) -> Committed:
        self.releasing.drop_lost(stale=self._ended == "stale")
        return self.family.history.record_merge(
            self.id,
            to_json(world),
            heads,
            epoch=self._epoch,
            parent_epoch=self._parent_epoch,
            flushed=False,
        )

    def _record_commit(self, world: World, *, overwrite: bool) -> Committed:
        self.releasing.drop_lost(stale=self._ended == "stale")
        return self.family.history.commit(
            self.id,
            to_json(world),
            overwrite=overwrite,
            epoch=self._epoch,
            parent_epoch=self._parent_epoch,
            flushed=is_on_disk(world),
        )

    def _refuse_running(self, parent: str) -> None:
        above = self.family.history.get(parent)
        refuse_running(above, Points(self.family.history, self.family.deltas).process_of(above))

    @property
    def _parent_epoch(self) -> int | None:
        return None if self.parent is None else self.parent._epoch

    async def _snapshot_left(self) -> SnapshotRecord:
        world = self._world_now()
        made = await self.family.waiting.aside(
            lambda: self.family.history.snapshot(self.id, to_json(world), epoch=self._epoch, flushed=False)
        )
        self.family.flusher.add(made.id)
        return made

    def _base_snapshot(self) -> SnapshotRecord:
        record = self.family.history.get(self.id)
        return self.family.history.get_snapshot(str(record.base))

    async def abort(self) -> Undone:
        """Ends the branch and all below it; see `Branch.abort`."""
        self._check_process()
        return await self.family.waiting.whole(self._abort())

    async def _abort(self) -> Undone:
        if self._ended in ("committed", "closed") or (self._ended == "aborted" and not self._untold):
            return Undone()
        ending = Ending(self.family)
        try:
            async with self.family.lock:
                with self._telling():
                    self._stop("aborted", ending)
                    await ending.silence()
                    world = self._world_now()
                    await self.family.waiting.aside(lambda: self._record_abort(world))
            await ending.undo(stale=False)
        finally:
            ending.kill_spared()
            if not self._untold:
                if self.parent is None:
                    self.family.owner.end(self.id)
                else:
                    self.parent._children.pop(self.id, None)
        self._let_go()
        await self._end_tape(keep=True)
        return ending.undone

    def _record_abort(self, world: World) -> None:
        history = self.family.history
        if history.get(self.id).status in ("open", "stale"):
            # What it was can be read until it is collected.
            made = history.snapshot(self.id, to_json(world), epoch=self._epoch, flushed=False)
            self.family.flusher.add(made.id)
            crash_point("abort.sealed")
            history.abort(self.id, epoch=self._epoch)

    async def close(self, *, keep: bool) -> None:
        """Ends what runs in a root branch and in all below it, calls that are under way included.

        Args:
            keep: Whether to record what it is, so that it can be looked at, applied and gone on from.
        """
        if self._pid != os.getpid():
            return  # it is the other process's, which goes on with it
        if self._ended == "aborted" and self._untold:
            await self.abort()
        if self._ended and not self._untold:
            await self._end_tape(keep=keep)  # of what was checked out, and committed
            return
        failed: KiboError | None = None
        for child in list(self._children.values()):
            try:
                await child.abort()
            except KiboError as error:
                # Nothing of the child runs any more. That its end could not be recorded must not lose what this one is.
                failed = failed or error
        waiting = self.family.waiting
        if not self._ended:
            self._check()
            if keep:
                for member in self.members.values():
                    await member.stop_services(waiting)
        await waiting.whole(self._close(keep=keep))
        if failed is not None:
            raise failed

    async def _close(self, *, keep: bool) -> None:
        waiting = self.family.waiting
        try:
            with self._telling():
                self._stop("closed", Ending(self.family))
                for member in self.members.values():
                    await member.talk.destroy()
                if keep:
                    await self._snapshot_left()
                    crash_point("close.sealed")
                    if not self._is_root and self.family.recorder.used:
                        await waiting.aside(lambda: self.family.recorder.calls.keep(self.id))
                    if self._is_root:
                        await waiting.aside(lambda: self.family.history.finish(self.id, epoch=self._epoch))
            self._let_go()
            await waiting.aside(self.family.flusher.flush)
        finally:
            if self.parent is None and not self._untold:
                self.family.owner.end(self.id)
            await self._end_tape(keep=keep)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Notes, where a block that ends it fails, that it can be called again: to tell the history."""
        self._untold = True
        try:
            yield
        except (BranchTaken, NotFound):
            self._untold = False  # another tells it
            raise
        self._untold = False

    async def _end_tape(self, *, keep: bool) -> None:
        """Ends the recording or the replay of a tree that ends."""
        tape = self.family.tape
        if self.parent is None and tape is not None:
            await self.family.waiting.aside(tape.close if keep else tape.drop)

    # -- looking

    async def unrecorded(self) -> list[Unrecorded]:
        """Lists what a replay was asked for and did not have; see `Branch.unrecorded`."""
        tape = self.family.tape
        return [] if tape is None else await self.family.waiting.aside(tape.unrecorded)

    async def status(self) -> Status:
        """Tells where it is in its life, as the history says. What was stopped is stale, also where its own parent,
        which was stopped with it, has not moved.
        """
        known = (await self.family.waiting.aside(lambda: self.family.history.get(self.id))).status
        return "stale" if known == "open" and self._ended == "stale" else known

    async def diff(self) -> list[BranchChange]:
        """Lists what has changed in it since it was forked, or began; see `Branch.diff`."""
        self._forget_destroyed()
        deltas, start, now = self.family.deltas, self.sharing.start, self.sharing.world_now()
        pairs = [
            *([(SHARED, start, now)] if start != now else []),
            *(
                (name, member.start, member.world_now(deltas))
                for name, member in sorted(self.members.items())
            ),
        ]
        return await self.family.waiting.aside(
            lambda: [
                change for name, start, now in pairs for change in deltas.changes(name, start, now, HOST_BITS)
            ]
        )

    async def apply(self) -> dict[str, Applied]:
        """Brings the files of workspaces to the host; see `Branch.apply`."""
        if self.parent is not None:
            raise WrongState(
                f"branch {self.name or self.id} has a parent: only a root's files are applied",
                hint="commit() it, then apply() the root.",
                details={"branch": self.id},
            )
        self._check()
        return await self._sealing(self._apply)

    async def _apply(self) -> dict[str, Applied]:
        async with self._turns():
            made = await self._snapshot_held()
            wanted = {name: each for name, each in world_of(made).items() if each.frozen}
            return await self.family.waiting.aside(lambda: self.family.deltas.apply(wanted))

    # -- how it goes on

    def _moved(self) -> bool:
        """Whether it is something else than when it was sealed last. Asks nobody but the disk."""
        self._check()
        names, deltas = {*self.members, *_named(self.sharing.world_now())}, self.family.deltas
        return (
            names != self._sealed_names
            or self.sharing.changed()
            or any(each.changed(deltas) for each in self.members.values())
        )

    def _take_over(self, winner: RunningBranch, world: World, ending: Ending) -> None:
        """Makes this branch what a committed fork of it is, and ends the others."""
        for name, member in winner.members.items():
            self._take_member(name, member, world[name])
        for name in self.members.keys() - winner.members.keys():
            ending.kill(self.members.pop(name).face, NOT_THERE)
        self.sharing.take_over(winner.sharing, world.get(SHARED))
        self._sealed_names = set(world)
        self._take_mail(winner, joined=False)
        self._end_children(winner, ending)

    def _take_mail(self, winner: RunningBranch, *, joined: bool) -> None:
        if winner._mail is not None:
            self.mail.take_over(winner._mail, joined=joined)
        elif self._mail is not None and not joined:
            self._mail.post.replace(None)

    def _take_member(self, name: str, member: Member, sealed: InstanceWorld) -> None:
        mine = self.members.get(name)
        if mine is None:
            member.face.branch = self.face
            self.members[name] = replace(member, sealed=sealed)
            member.left = sealed
            member.spawned.asker = self.asker
            return
        member.left = sealed
        mine.talk.session.forget(mine.talk.instance)
        adopt(mine.face, member.face)
        mine.spawned.asker = self.asker
        mine.frozen, mine.sealed = member.frozen, sealed
        member.talk.ended = "its branch was committed: its parent has it now"

    def _become_merged(
        self,
        merged: RunningBranch,
        kept: set[str],
        fresh: Mapping[str, Spawned],
        overlay: Mounted | None,
        world: World,
        ending: Ending,
    ) -> None:
        for name in kept:
            self._take_member(name, merged.members[name], world[name])
        for name, spawned in fresh.items():
            like = self.members.get(name) or merged.members[name]
            face = self.family.instance_face(spawned)
            conversation_of(face).acts = world[name].turns
            mine = Member(name, face, like.box, like.frozen, like.start, world[name], shared=like.shared)
            self._take_member(name, mine, world[name])
        if overlay is merged.sharing.mounted:
            self.sharing.take_over(merged.sharing, world.get(SHARED))
        else:
            self.sharing.replace(overlay, world.get(SHARED))
        for name in self.members.keys() - world.keys():
            ending.kill(self.members.pop(name).face, NOT_THERE)
        for name in fresh.keys() & merged.members.keys():
            merged.members[name].talk.successor = self.members[name].talk
        for name, member in self.members.items():
            member.sealed = world[name]
        self._sealed_names = set(world)
        self._take_mail(merged, joined=True)
        self._end_children(merged, ending)

    def _end_children(self, winner: RunningBranch, ending: Ending) -> None:
        self.loaded |= winner.loaded
        winner._stop("committed", ending)
        for child in self._children.values():
            if not child._ended:  # of earlier commits there may be thousands
                child._stop("stale", ending)
        # Those of the winner, which have nothing to commit into any more, end with this branch.
        self._children |= winner._children
        del self._children[winner.id]
        if self._mail is not None:
            self._mail.look_again()

    def _stop(self, why: Ended, ending: Ending) -> None:
        """Ends what runs in it and below it, at once; but for instances that have something to undo first."""
        pending: list[tuple[RunningBranch, Ended]] = [(self, why)]  # trees are deeper than Python's stack
        while pending:
            branch, how = pending.pop()
            branch._stop_alone(how, ending)
            pending += [
                (child, "stale" if how == "committed" else how) for child in branch._children.values()
            ]
        if self.parent is None and why not in ("aborted", "closed"):
            self.family.owner.end(self.id)

    def _stop_alone(self, why: Ended, ending: Ending) -> None:
        if not self._ended or (self._ended == "stale" and why in ("aborted", "committed")):
            self._ended = why
        if self._mail is not None:
            self._mail.room.close()
        if self.parent is not None:
            self.parent._forks_alive.discard(self)
            if self.parent._mail is not None:
                self.parent._mail.look_again()  # it may have rested for this one
        reason = f"its branch {self.name or self.id} is {self._ended}"
        mine = [
            each for each in self.members.values() if each.face.branch is self.face
        ]  # else its parent's now
        self.sharing.end()
        if self._undoes:
            return  # they end once that is done
        if why != "closed" and ending.can_undo(self.id):
            self._undoes = True
            ending.spare(self.id, mine, reason)
        else:
            for member in mine:
                ending.kill(member.face, reason)

    @contextmanager
    def _saying_why(self) -> Iterator[None]:
        """Where an instance has ended under somebody's hands because its branch did, says that."""
        try:
            yield
        except KiboError:
            self._check()
            raise

    def _check(self) -> None:
        """Refuses what only an open branch can do; an instance that its user destroyed is in it no more."""
        self._check_open()
        self._forget_destroyed()

    def _forget_destroyed(self) -> None:
        if self._ended:
            return  # what it is does not change any more
        for name in [name for name, each in self.members.items() if was_destroyed(each.face)]:
            self.members.pop(name, None)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise WrongState(
                f"branch {self.name or self.id} belongs to the process that this one was forked from",
                hint="Use it there: two processes would mix up what runs in it. Here it can be read.",
                details={"branch": self.id},
            )

    def _check_open(self) -> None:
        self._check_process()
        if not self._ended:
            return
        if self._ended == "stale":
            raise BranchStale(
                f"branch {self.name or self.id} is stale: another fork of its parent was committed",
                hint="What it wrote is there: merge() joins it, commit(overwrite=True) takes its side.",
                details={"branch": self.id},
            )
        raise BranchClosed(
            f"branch {self.name or self.id} is {self._ended}",
            hint="It can be read. Fork again from its parent, or check one of its snapshots out.",
            details={"branch": self.id, "status": self._ended},
        )


def _ended_by_itself(member: Member, error: InstanceEnded) -> InstanceEnded:
    return InstanceEnded(
        f"{member.name}: {error.message}",
        hint="destroy() it, and the branch goes on without it. What it wrote is in diff() until then.",
        details={**error.details, "instance": member.name},
    )


def _listed(given: Sequence[str], what: str, one: str) -> Sequence[str]:
    """Refuses one text where several are meant, which would be taken for its letters."""
    if isinstance(given, str | bytes) or not all(isinstance(each, str) for each in given):
        raise InvalidInput(
            f"{what}={reprlib.repr(given)} is no list of texts",
            hint=f"Write {what}=[...], with {one} in each place.",
        )
    return given


def _named(shared: InstanceWorld) -> World:
    """Returns what a world has of shared directories: nothing where nothing was ever in them."""
    return {SHARED: shared} if shared.deltas else {}
