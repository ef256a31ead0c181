"""Calls of actions that the ledger has: recorded before they are made, and made once for each key.

The ledger is a port: it is not known here. What the guest says is taken for what its action returned, and for nothing
else; that a call is within an action that can be undone is told to the gateway from here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from kibo.box.actions import ActionSpec
from kibo.box.marks import key_of
from kibo.model.calls import Begun, Call
from kibo.model.errors import ActionRaised, InDoubt, InvalidArguments, KiboError, StateLocked, WrongState
from kibo.model.limits import MAX_EFFECT_BODY_BYTES
from kibo.runtime import wire

if TYPE_CHECKING:
    from kibo.runtime.conversation import Conversation
    from kibo.runtime.egress import Egress
    from kibo.runtime.states import Spawned

#: What the length before a message takes of it.
_FRAME_BYTES: Final = 4


class Recorder(Protocol):
    """The ledger, as whoever makes calls needs it. Every call of it waits for a disk."""

    def begin(self, call: Call, maker: object) -> Begun:
        """Records a call, unless its key stands for one already; notes what made it, which can undo it."""

    def returned(self, effect: str, result: Any) -> None:
        """Records what a call returned."""

    def raised(self, effect: str, why: str) -> None:
        """Records that it has not happened, unless something outside may have changed by it: then that is not known."""

    def lost(self, effect: str, why: str) -> None:
        """Records that nobody knows whether it has."""

    def confirm(self, effect: str, result: Any, why: str, *, known: bool) -> None:
        """Records that one in doubt has happened, and what it was to return where that is known."""

    def deny(self, effect: str, why: str) -> bool:
        """Records that one in doubt has not happened. Returns whether it is so: a request of it may be on its way."""

    def maker_of(self, effect: str) -> Any:
        """Returns what made a call, where that lives; else None."""


async def perform(
    face: Any,
    spec: ActionSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    key: str | None = None,
    begun: Callable[[], None] = lambda: None,
    trace: str = "",
) -> Any:
    """Calls an action of an instance, of either face, and has the ledger record it.

    Args:
        face: The instance.
        spec: The action.
        args: What it is called with by position.
        kwargs: And by name.
        key: What the call is one intent of, where the action itself names none.
        begun: Called once the action is at work, or is found to have been.
        trace: See `Conversation.ask_action`.

    Raises:
        InDoubt: A call with its key may have happened. It was not made again.
        StateLocked: A call with its key is being made. Retry after that.
        InvalidArguments: Its key stands for other arguments, or they are more than is kept. Nothing was called.
        KiboError: As any call. An action that raises has not happened, unless it has changed something outside.
    """
    talk, spawned = face._conversation, face._spawned
    positional, named = spec.check_arguments(args, kwargs)
    recorder = await talk.waiting.aside(lambda: spawned.states.recorder)
    async with talk.having_turn():
        talk.check()
        arguments = spec.by_name(positional, named)
        call = _call(talk, spawned, spec, arguments, key)
        known = await talk.waiting.aside(lambda: recorder.begin(call, talk))
        while known.state != "new":
            if known.state == "in_doubt" and spec.verifier is not None:
                known = await _verified(talk, recorder, arguments, spec.verifier, known)
            if known.state != "new":
                begun()
                return spec.check_result(_repeated(spec, call.key, known))
            known = await talk.waiting.aside(lambda: recorder.begin(call, talk))
        result = await _made(talk, spawned, known.effect, spec, positional, named, begun, trace)
    return spec.check_result(result)


async def _made(
    talk: Conversation,
    spawned: Spawned,
    effect: str,
    spec: ActionSpec,
    positional: list[Any],
    named: Mapping[str, Any],
    begun: Callable[[], None],
    trace: str,
) -> Any:
    waiting, recorder, asked = talk.waiting, spawned.states.recorder, False
    try:
        await talk.be_awake()  # it has its way out again only then
        with within(spawned.states.egress, talk, effect, lets_out=spec.compensator is not None):
            await talk.ask_action(spec, positional, named, trace=trace)
            asked = True
            begun()
            result = await talk.answer_of(spec)
    except BaseException as error:
        # What the action raised, it says itself; and what could not be sent whole has not begun.
        known = isinstance(error, ActionRaised if asked else Exception)
        why = error.message if isinstance(error, KiboError) else "it was cancelled"
        record = recorder.raised if known else recorder.lost
        await waiting.aside(lambda: record(effect, why))
        raise
    await waiting.aside(lambda: recorder.returned(effect, result))
    return result


async def _verified(
    talk: Conversation,
    recorder: Recorder,
    arguments: Mapping[str, Any],
    verifier: ActionSpec,
    begun: Begun,
) -> Begun:
    """Asks whether a call in doubt has happened, and records what is found out."""
    found = await ask_verifier(talk, verifier, arguments)
    why = f"{verifier.name}() says so"
    if found is None:
        return begun
    if found is False:
        denied = await talk.waiting.aside(lambda: recorder.deny(begun.effect, why))
        return begun._replace(state="new" if denied else "going")
    known = found is not True
    await talk.waiting.aside(lambda: recorder.confirm(begun.effect, found, why, known=known))
    return Begun(begun.effect, "done", found if known else None, True)


async def ask_verifier(
    talk: Conversation, verifier: ActionSpec, arguments: Mapping[str, Any], *, last: bool = False
) -> Any:
    """Asks whether a call has happened; the caller has the turn.

    Args:
        talk: By which it is asked.
        verifier: What tells.
        arguments: Those of the call, by name.
        last: See `Conversation.ask_action`.

    Returns:
        True, False, None where that cannot be told, or else what it was to return.
    """
    positional, named = verifier.check_arguments((), verifier.among(arguments))
    await talk.ask_action(verifier, positional, named, last=last)
    return verifier.check_result(await talk.answer_of(verifier))


async def call_compensator(
    egress: Egress,
    talk: Conversation,
    effect: str,
    undoes: ActionSpec,
    arguments: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Undoes a call; the caller has the turn.

    Args:
        egress: The way out of its instance.
        talk: By which it is undone.
        effect: The call.
        undoes: What undoes it.
        arguments: Those of the call, by name.
        result: What it returned, under the name that has; empty where that is not known.

    Raises:
        KiboError: It could not.
    """
    positional, named = undoes.check_arguments((), undoes.among({**result, **arguments}))
    await talk.be_awake()
    with within(egress, talk, effect, lets_out=True):
        await talk.ask_action(undoes, positional, named, last=True)
        undoes.check_result(await talk.answer_of(undoes))


def _call(
    talk: Conversation, spawned: Spawned, spec: ActionSpec, arguments: Mapping[str, Any], key: str | None
) -> Call:
    key = key_of(spec.name, spec.key, arguments) if spec.key else key
    try:
        packed = wire.pack(arguments)[_FRAME_BYTES:]
    except wire.FrameError as error:
        raise _not_kept(spec, str(error)) from None
    if len(packed) > MAX_EFFECT_BODY_BYTES:
        raise _not_kept(spec, f"they have {len(packed)} bytes")
    # In a replay nothing has changed outside that could be undone.
    undo = None if spec.compensator is None or spawned.asker.replays else spec.compensator.name
    return Call(
        talk.plan.digest,
        spec.part,
        spec.label,
        spec.effect,
        undo,
        key,
        packed,
        spawned.asker,
        talk.instance,
    )


def _not_kept(spec: ActionSpec, why: str) -> InvalidArguments:
    return InvalidArguments(
        f"{spec.name}(): its arguments cannot be recorded: {why}",
        hint=f"The ledger keeps up to {MAX_EFFECT_BODY_BYTES} bytes: pass large data in a file of the box.",
        details={"action": spec.name},
    )


def _repeated(spec: ActionSpec, key: str | None, begun: Begun) -> Any:
    """Returns what a call returned that was made before.

    Raises:
        KiboError: That is not known, or it was another call.
    """
    what, effect = f"{spec.name}() with the key {key!r}", begun.effect
    details = {"effect": effect, "key": key, "action": spec.name}
    if begun.state == "other":
        raise InvalidArguments(
            f"{what} was called with other arguments, as {effect}",
            hint="A key stands for one call: give this one another.",
            details=details,
        )
    if begun.state == "going":
        raise StateLocked(
            f"{what} is being called elsewhere, as {effect}, or a request of it is still on its way",
            hint="Call again when that has come to an end: its result is what this returns.",
            details=details,
        )
    if begun.state == "in_doubt":
        raise InDoubt(
            f"{what} was called before, as {effect}, and may have happened",
            hint=f"Find out, and say so: `kibo effects resolve {effect} --done`, or --not-done. "
            "@action(verify=...) names an action that does.",
            details=details,
        )
    if not begun.known:
        raise WrongState(
            f"{what} has happened, as {effect}, and what it returned is not known",
            hint=f"`kibo effects show {effect}` tells what is. It is not called again.",
            details=details,
        )
    return begun.result


@contextmanager
def within(egress: Egress, talk: Conversation, effect: str, *, lets_out: bool) -> Iterator[None]:
    """Has the gateway take what an instance asks for as part of a call, for as long as a block lasts.

    Args:
        egress: The way out.
        talk: With the instance.
        effect: The call.
        lets_out: Whether it is not held: it can be undone, or undoes.
    """
    if not talk.plan.egress:
        yield
        return
    ours, theirs = socket.socketpair()
    # Its end says that the block is over, however this process ends; whoever answers a request looks first.
    with ours:
        with theirs:
            egress.within(talk.instance, effect, theirs, lets_out=lets_out)
        yield
