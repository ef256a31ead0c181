"""Forks of a running instance: its files and its live state, at one point in time.

An instance that is forked becomes a sealed point that nobody runs in any more, and every side goes on from there, the
origin included: in its own process once nothing descends from it, else in a fork of its own (decision 0013). Where
something in it cannot be forked, that is named and nothing has changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from kibo.model.asker import Asker
from kibo.model.errors import InvalidInput, KiboError, NotLive, WrongState
from kibo.model.ids import DeltaId, InstanceId, StateId
from kibo.model.limits import MAX_FORKS
from kibo.runtime import wire
from kibo.runtime.channel import Channel
from kibo.runtime.conversation import Conversation
from kibo.runtime.making import Making, make_all
from kibo.runtime.orders import FORK_S
from kibo.runtime.refusals import violation
from kibo.runtime.servicing import start_services, stop_services
from kibo.runtime.states import Spawned
from kibo.runtime.waiting import Waiting
from kibo.runtime.world import DELTAS

#: How a fork is to be made: live where that can be, live or not at all, or with fresh guests.
Live = Literal["prefer", "require", "never"]

#: Why a fork is not live whose caller did not want it to be.
ASKED: Final = "a fresh guest was asked for"
#: Why a point is not live that was taken in the middle of a call.
BUSY: Final = "an action is under way in it"


@dataclass(frozen=True, slots=True)
class Point:
    """An instance at one point in time, to fork from.

    Attributes:
        cell: The sealed cell, or empty where the point has files only.
        files: What names its files to the warden.
        layers: Paths of its sealed layers in the warden's namespace, lowest first.
        reasons: Why it is not live; empty where it is.
    """

    cell: str
    files: str
    layers: tuple[str, ...]
    reasons: tuple[str, ...]


async def take(waiting: Waiting, spawned: Spawned, talk: Conversation, live: Live = "prefer") -> Point:
    """Seals a running instance, or copies its files where it cannot be sealed. It goes on by itself when it is used.

    Waits for a call that is under way. Services are stopped first, in good order, and start again in every side;
    where files are copied, nothing in the instance is ended, and nothing of it notices.

    Raises:
        NotLive: Something stands in the way, and ``live`` is ``"require"``; the instance goes on undisturbed.
        InstanceEnded: It has ended.
        HostDiskFull: There is no room for a copy. It goes on, and nothing is left.
        Unavailable: A program in it could not be stopped for a copy.
    """
    talk.check()
    async with talk.having_turn():
        return await take_held(waiting, spawned, talk, live)


async def take_held(waiting: Waiting, spawned: Spawned, talk: Conversation, live: Live = "prefer") -> Point:
    """As `take`, for a caller that has the turn."""
    # Whole: a guest that has closed its files, and was not told whether it was sealed, could go on in neither way.
    with waiting.undivided():
        sealed = await waiting.whole(_sealed(waiting, spawned, talk))
    if isinstance(sealed, Point):
        spawned.deltas = spawned.taken = on_disk(sealed.layers)
        return sealed if live != "never" else replace(sealed, cell="", reasons=(ASKED,))
    if live != "require":
        return await _copy(waiting, spawned, talk, (ASKED,) if live == "never" else sealed)
    raise NotLive(
        f"the instance cannot be forked: {'; '.join(sealed)}",
        hint="End or close what is named, in the box or in its suspend(), which is called for that; "
        "resume() opens it again. With live='prefer', forks have its files and a fresh guest.",
        details={"reasons": list(sealed)},
    )


async def take_busy(waiting: Waiting, spawned: Spawned, talk: Conversation) -> Point:
    """As `take`, without waiting for a call that is under way: the files as they are, and nothing notices.

    Raises:
        InstanceEnded, HostDiskFull, Unavailable: As `take`.
    """
    return await _copy(waiting, spawned, talk, (BUSY,))


async def _sealed(waiting: Waiting, spawned: Spawned, talk: Conversation) -> Point | tuple[str, ...]:
    return await _again(waiting, talk) or await _seal(waiting, spawned, talk)


def on_disk(layers: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of those layers that are on disk, of paths in the warden's namespace."""
    return tuple(path.rpartition("/")[2] for path in layers if path.startswith(f"{DELTAS}/"))


async def _again(waiting: Waiting, talk: Conversation) -> Point | None:
    """Takes the point at which an instance still is since it was sealed last; None where it has gone on."""
    if not talk.parked:
        return None
    answer, _ = await talk.session.ask(waiting, "keep", {"id": talk.instance})
    if answer["state"]:
        return Point(answer["state"], answer["state"], tuple(answer["layers"]), ())
    await talk.awake()  # a command that was started in it has woken it
    return None


async def _copy(waiting: Waiting, spawned: Spawned, talk: Conversation, reasons: tuple[str, ...]) -> Point:
    """Copies an instance's files, while what runs in it is stopped."""
    name = StateId.new()
    order = {"id": talk.instance, "point": name, "upper": _beside(spawned)}
    try:
        answer, _ = await talk.session.ask(waiting, "copy", order)
    except BaseException:
        with contextlib.suppress(KiboError):
            talk.session.order("drop", {"files": name})
        raise
    spawned.taken = on_disk(answer["layers"])
    return Point("", name, tuple(answer["layers"]), reasons)


def _beside(spawned: Spawned) -> str:
    """Names another layer on disk of an instance's owner; empty for an instance that writes to memory."""
    return DeltaId(spawned.upper).beside() if spawned.upper else ""


async def _seal(waiting: Waiting, spawned: Spawned, talk: Conversation) -> Point | tuple[str, ...]:
    """Seals an instance, or returns what stands in the way. Not broken off: half sealed, it would be lost."""
    services = spawned.state.plan.env.services
    with waiting.unbroken():
        reasons = _obstacles(await talk.ask("hold"))
        if reasons:
            return reasons
        stopped = False
        state, upper = StateId.new(), _beside(spawned)
        order = {"id": talk.instance, "state": state, "upper": upper}
        channel, theirs = Channel.pair()
        try:
            if services:
                # Looked for first: services are not ended for a fork that comes to nothing.
                await talk.session.ask(waiting, "alone", {"id": talk.instance}, timeout_s=FORK_S)
                await stop_services(waiting, talk.session, talk.instance)
                stopped = True
            answer, _ = await talk.session.ask(waiting, "seal", order, [theirs.fileno()], FORK_S)
        except BaseException as error:
            channel.close()
            await talk.ask("release")
            if stopped:
                await start_services(waiting, talk.session, talk.instance, services)
            if not isinstance(error, NotLive):
                raise
            return (error.message,)
        finally:
            theirs.close()
        talk.park(channel)
        spawned.upper = upper
        return Point(state, state, tuple(answer["layers"]), ())


def _obstacles(answer: Any) -> tuple[str, ...]:
    if not isinstance(answer, dict):
        raise violation("its answer has no form")
    if "threads" in answer:
        names = ", ".join(map(str, answer["threads"])) or f"{answer.get('thread_count')} of native code"
        return (f"threads run in it: {names}",)
    return tuple(f"it has {kept}" for kept in answer.get("unforkable", ()))


async def fork(
    waiting: Waiting,
    spawned: Spawned,
    point: Point,
    n: int,
    *,
    durable: bool = False,
    over: Sequence[str] | None = None,
    askers: Sequence[Asker] = (),
    parts: Sequence[Mapping[str, Any]] = (),
) -> list[Spawned]:
    """Makes forks from a point, all or none.

    Args:
        waiting: How to wait.
        spawned: The instance that the point was taken of.
        point: Where they begin.
        n: How many.
        durable: Whether they write to layers on disk, as it does, and not in memory.
        over: Of a point that is not live: layers on disk that show its files, besides the state's own, lowest first.
        askers: On whose behalf each is to ask for something outside; as the instance itself by default.
        parts: What each is to have of its branch's shared directories; none by default.

    Raises:
        NotLive: The kernel nests no deeper. The point has its files still.
        KiboError: They could not be made; nothing is left of them.
    """
    arguments: dict[str, Any] = {"source": point.cell or spawned.state.cell}
    if not point.cell:
        arguments |= {"files": point.files} if over is None else {"over": list(over)}
    plan, deltas = spawned.state.plan, on_disk(point.layers) if over is None else tuple(over)
    orders: list[dict[str, Any]] = [
        {"id": InstanceId.new(), "upper": _beside(spawned) if durable else "", **arguments} for _ in range(n)
    ]
    for order, part in zip(orders, parts, strict=False):
        order["shared"] = dict(part)
    behalves = askers or [spawned.asker] * n
    makings: list[Making] = []
    try:
        for order, asker in zip(orders, behalves, strict=True):
            makings.append(spawned.states.begin("fork", order, plan, asker))
        await make_all(waiting, makings)
    except BaseException:
        for making in makings:
            making.discard()
        raise
    return [
        Spawned(
            spawned.states,
            spawned.state,
            order["id"],
            making.channel,
            order["upper"],
            deltas,
            asker=asker,
            shares=bool(parts),
        )
        for order, making, asker in zip(orders, makings, behalves, strict=True)
    ]


async def go_on(waiting: Waiting, spawned: Spawned, talk: Conversation) -> None:
    """Has a parked instance go on at once, where its first use would not do: one with services, or with a way out."""
    plan = spawned.state.plan
    if not talk.parked or not (plan.egress or plan.env.services):
        return
    door = spawned.states.door(talk.instance, plan, spawned.asker) if plan.egress else None
    try:
        talk.session.order("wake", {"id": talk.instance}, [door.theirs] if door else [])
        if door is not None:
            try:
                await door.open(waiting)
            except wire.Closed:
                pass  # it goes on in its own process, whose door is open still; or it could not, which is told next
        await talk.awake()
        if plan.env.services:
            await start_services(waiting, talk.session, talk.instance, plan.env.services)
    finally:
        if door is not None:
            door.close()


def check_wanted(n: int, live: Live) -> None:
    """Checks what a fork is asked for.

    Raises:
        InvalidInput: ``n`` is not between 1 and `MAX_FORKS`, or ``live`` no word for how.
    """
    if type(n) is not int or not 1 <= n <= MAX_FORKS:
        raise InvalidInput(
            f"a fork makes 1 to {MAX_FORKS:,} others, not {n!r}", hint="Give a number, such as fork(3)."
        )
    if live not in get_args(Live):
        raise InvalidInput(f"live={live!r} says nothing", hint=f"One of {', '.join(get_args(Live))}.")


def branch_of(face: Any) -> Any:
    """Returns the branch that an instance of either face was spawned in.

    Raises:
        WrongState: It is in none: what it has is in memory, and ends with it.
    """
    if isinstance(face.branch, str):
        raise WrongState(
            "an instance that is in no branch has no snapshots",
            hint="Spawn it in one: `main = kibo.branch()`, then `main.spawn(box)`. A fork keeps what it is, too.",
            details={"instance": face.id},
        )
    return face.branch


async def fork_once(
    waiting: Waiting, spawned: Spawned, talk: Conversation, n: int, live: Live
) -> tuple[list[Spawned], Point]:
    """Forks a running instance: takes the point, makes the forks, and lets go of what is needed no more.

    Raises:
        NotLive: As `take`.
        InvalidInput: ``n`` is not between 1 and `MAX_FORKS`, or ``live`` no word for how.
        WrongState: It shares directories with others of its branch, which a fork of it alone would take apart.
    """
    check_wanted(n, live)
    if spawned.shares:
        raise WrongState(
            "the instance shares directories with others of its branch, and is forked with them only",
            hint="Fork its branch: instance.branch.fork().",
            details={"instance": spawned.instance},
        )
    point = await take(waiting, spawned, talk, live)
    try:
        return await spread(waiting, spawned, point, n, live)
    finally:
        drop(spawned, point)
        await waiting.whole(go_on(waiting, spawned, talk))


async def spread(
    waiting: Waiting,
    spawned: Spawned,
    point: Point,
    n: int,
    live: Live = "prefer",
) -> tuple[list[Spawned], Point]:
    """Makes forks from a point, with fresh guests where the kernel nests no deeper and that will do.

    Returns:
        The forks, and the point as they are of it: live, or why not.

    Raises:
        KiboError: As `fork`.
    """
    try:
        return await fork(waiting, spawned, point, n), point
    except NotLive as error:
        if live == "require":
            raise
        deep = Point("", point.files, point.layers, (error.message,))
        return await fork(waiting, spawned, deep, n), deep


def discard(spawned: Spawned) -> None:
    """Ends an instance that nobody has been given."""
    spawned.channel.close()
    spawned.states.session.forget(spawned.instance)


def drop(spawned: Spawned, point: Point) -> None:
    """Lets go of a point that nobody forks from any more. What was forked from it keeps what it needs."""
    try:
        spawned.states.session.order("drop", {"files": point.files})
    except KiboError:
        pass  # the runtime is gone, and they with it
