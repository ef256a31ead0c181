"""What one gateway has still to send, and what it waits for: the ledger from a thread of its own, and who is to hear.

Truth is in the ledger. What is in memory is which client waits for which effect; where none does, because it has gone
or because another gateway has died, an effect that was released is sent all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakValueDictionary

from kibo.effects import presence
from kibo.effects.bells import Bell, bell_of
from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, ClientGoneError, Interim, Request, Sender, Whole
from kibo.effects.http_head import SecretValue
from kibo.effects.link import BAD_GATEWAY, IDLE_S
from kibo.effects.orders import Place
from kibo.effects.packed import SECRETS
from kibo.effects.records import Draft, Effect, Exact, Fields, Outcome, Unsent, line_of
from kibo.effects.redacting import Redacting
from kibo.effects.repeating import repetition
from kibo.effects.sending import Kept, is_small, keyed, looked_up, names_of, replay, restored, settles
from kibo.effects.upstream import Upstream
from kibo.effects.values.finding import Values
from kibo.effects.values.lookups import Lookups
from kibo.model.errors import (
    HostDiskFull,
    KiboError,
    StoreUnavailable,
    WrongState,
)
from kibo.model.limits import LAST_ANSWERS_S, MAX_EFFECT_ANSWER_BYTES
from kibo.store import crash

if TYPE_CHECKING:
    from kibo.effects.ledger import Ledger

T = TypeVar("T")
#: Seconds until a ledger is tried again that could not be used: a database that restarts takes some.
AGAIN_S: Final = 0.5
#: Seconds until what had no answer is sent again while its client waits, where its server acts once on its key.
REPEATS_S: Final = (0.5, 2.0, 8.0)
#: Seconds until that is done again once it is in doubt: at first, and at most.
AGAIN_LATER_S: Final = (5.0, 300.0)
#: Seconds until the value of a secret is looked up again that something waits for.
VALUE_AGAIN_S: Final = 5.0
#: Seconds until it is looked again whether another gateway has died. Looking costs some files that are opened.
WATCH_S: Final = 2.0
#: Of two gateways of one store, the other was faster.
OVERTAKEN: Final = "it, or another request with its key, is sent by another gateway. It is not sent twice."
#: By which an answer names the effect that it stands for until that is sent.
EFFECT: Final = b"kibo-effect"
#: Waits for the answer to a request that is held.
Held = Callable[[], Awaitable[Answer]]


class _NoValueError(Exception):
    """Secrets that go into a request have no value here at the moment.

    Args:
        why: What there is to say of each, by its name.
    """

    def __init__(self, why: Mapping[str, str]) -> None:
        super().__init__("; ".join(why.values()))
        self.why = why


@dataclass(slots=True)
class Waiter:
    """A client that waits for an effect to be sent.

    Attributes:
        answer: What it is to get.
        interim: Told of interim answers.
        upstream: What its box sends by.
        secrets: With their values.
        asks: Whether it waits for a person, too.
    """

    answer: asyncio.Future[Answer]
    interim: Interim
    upstream: Sender
    secrets: list[SecretValue]
    asks: bool


@dataclass(eq=False)
class Way:
    """What sends for one box what no client waits for.

    Attributes:
        upstream: What its box sends by.
        secrets: With their values, by their placeholders: those that were to go into such a request.
    """

    upstream: Sender
    secrets: dict[str, SecretValue] = field(default_factory=dict)

    def secrets_of(self, unsent: Unsent) -> list[SecretValue] | None:
        """Returns those that may go into a request; None where one is not known here."""
        found = [self.secrets.get(each.placeholder) for each in SECRETS.decode(unsent.secrets)]
        known = [each for each in found if each is not None]
        return known if len(known) == len(found) else None


class Outbox:
    """What one gateway has still to send.

    Args:
        place: Where its ledger is.
        trust: What servers' certificates are checked with.
        values: Where the values of secrets are, for what no box waits for any more.
    """

    def __init__(self, place: Place, trust: ssl.SSLContext, values: Values) -> None:
        self._place = place
        self._trust = trust
        self._lookups = Lookups(values)
        #: Secrets without a value that something released waits for, and the lines in which it does.
        self._lacking: dict[str, set[str]] = {}
        self._opened: Ledger | None = None
        # Of its own, so that nobody who only reads waits for a disk.
        self._thread = ThreadPoolExecutor(1, "kibo-ledger")
        self._waiters: dict[str, Waiter] = {}
        #: By instance, as long as its door is open.
        self._ways: WeakValueDictionary[str, Way] = WeakValueDictionary()
        self._releasing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._alone: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()
        #: What is in doubt and is being sent again, or will be.
        self._clearing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        #: For the first that waits for a person: another process says when there is an answer, a clock when none.
        self._bell: Bell | None = None
        self._alarm: asyncio.TimerHandle | None = None
        presence.appear(Path(place.gateways), place.gateway)

    # -- the ledger

    async def ask(self, work: Callable[[Ledger], T]) -> T:
        """Does something with the ledger, which is opened for the first that needs it.

        Raises:
            Refused: It cannot be read or written.
        """
        try:
            return await self._do(work)
        except KiboError as error:
            # What the database says, with its place on the host, is for the host's user and not for boxes.
            print(f"kibo: the ledger of effects cannot be used: {error.message}", file=sys.stderr, flush=True)
            full = isinstance(error, HostDiskFull)
            raise Refused(
                "503 Service Unavailable",
                "the ledger, without which nothing is sent that changes something, "
                f"{'has no room on its disk' if full else 'cannot be used'} at the moment. It was not sent: ask again "
                f"once {'there is some' if full else 'it can'}.",
            ) from None

    async def insist(self, work: Callable[[Ledger], T]) -> T:
        """As `ask`, for what has been decided or has happened already: where the ledger cannot be used at the moment,
        again and again, until it can, or this gateway ends.

        Raises:
            Refused: It ends. Whoever comes next finds how far this has come.
        """
        while not self._over.is_set():
            try:
                return await self._do(work)
            except (StoreUnavailable, HostDiskFull):
                await self._rest(AGAIN_S)
            except KiboError:
                break
        return await self.ask(work)

    async def _do(self, work: Callable[[Ledger], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._ledger()))

    def _ledger(self) -> Ledger:
        if self._opened is None:
            from kibo.effects.ledger import Ledger  # late: it brings a database along, which no reader needs
            from kibo.store.belonging import open_history

            self._opened = Ledger(open_history(Path(self._place.gateways).parent, self._place.store))
        return self._opened

    # -- what is sent at once

    async def released(self, branch: str) -> None:
        """Waits until what a commit has brought to a branch is sent: it was asked for before what is asked for now.

        Not by whoever is `alone` with a key: one of those may have the same.
        """
        lock = self._releasing.get(branch)
        if lock is not None:
            async with lock:
                pass

    async def send(self, draft: Draft, request: Request, upstream: Sender, interim: Interim) -> Answer:
        """Records a request, sends it and records the answer.

        Args:
            draft: What is recorded.
            request: What is sent, with the values of secrets in it.
            upstream: What it is sent by.
            interim: As for `Exchange.send`.
        """
        if draft.replayed:
            answer, outcome = await replay(request, upstream, interim)
            await self.ask(lambda ledger: ledger.replayed(draft, self._place.gateway, outcome))
            return answer
        begun = partial(self._begun, draft)
        # A task of its own: once it has left, its answer is recorded, whoever ends meanwhile.
        sending = asyncio.ensure_future(self._send(draft.id, request, upstream, interim, begun))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            self._background(self._finish(sending))
            raise

    async def _send(
        self,
        effect: str,
        request: Request,
        upstream: Sender,
        interim: Interim,
        begun: Callable[[], Awaitable[object]],
        *,
        repetition: bool = False,
    ) -> Answer:
        left = False

        async def leaving() -> None:
            nonlocal left
            if not left:
                await begun()
            left = True
            crash.point("effect.sending")

        async def hear(status: int, fields: Fields) -> None:
            # A client that has gone is no reason to doubt what the server says.
            with contextlib.suppress(OSError):
                await interim(status, fields)

        request = keyed(request, effect)
        again = request.idempotent and isinstance(request.body, Whole)
        waits = iter(REPEATS_S if again and not repetition else ())
        while True:
            try:
                answer = await upstream.send_once(request, hear, leaving)
                crash.point("effect.answered")
                if repetition and not settles(answer.status):
                    await answer.close()
                    raise Refused(BAD_GATEWAY, f"to a repetition the server says {answer.status}.")
                return await self._record(effect, request, answer)
            except Exception as error:
                if not left:
                    raise
                if (wait_s := next(waits, None)) is not None and await self._rest(wait_s):
                    repetition = True
                    continue
                raise await self._lost(effect, request, error, again=again) from error

    async def _lost(self, effect: str, request: Request, error: Exception, *, again: bool) -> Refused:
        """Records that there is no answer to what was sent; returns what its client is told."""
        await self.insist(lambda ledger: ledger.lose(effect, f"it was sent, and there is no answer: {error}"))
        if again:
            self._background(self._clear_up(effect, AGAIN_LATER_S[0]))
        return Refused(
            BAD_GATEWAY,
            f"whether {request.host} has acted on the request is not known: {error} "
            f"{'It is sent again with its key' if again else 'It is not sent again'}; "
            f"`kibo effects show {effect}` tells what it was.",
        )

    async def _record(self, effect: str, request: Request, answer: Answer) -> Answer:
        """Records an answer before it is passed on; of one that is long, or comes bit by bit, its head."""
        if answer.upgraded is not None or not is_small(request, answer):
            outcome = Outcome(answer.status, answer.fields, b"", answer.upgraded is not None)
            await self.insist(lambda ledger: ledger.answer(effect, outcome))
            if answer.upgraded is None:
                answer.body = Kept(answer, partial(self._keep, effect))
            return answer
        try:
            body = b"".join([chunk async for chunk in answer.body.chunks()])
        except BaseException:
            await answer.close()
            raise
        outcome = Outcome(answer.status, answer.fields, body, True)
        await self.insist(lambda ledger: ledger.answer(effect, outcome))
        answer.body = Whole(body, answer.body.trailers)
        return answer

    async def _keep(self, effect: str, body: bytes, whole: bool) -> None:
        await self.ask(lambda ledger: ledger.keep(effect, body, whole=whole))

    async def _finish(self, sending: Awaitable[Answer]) -> None:
        """Takes an answer that nobody waits for any more, as far as it is kept."""
        try:
            answer = await sending
        except (Refused, ClientGoneError):
            return  # it is recorded
        try:
            if answer.upgraded is None:
                async with asyncio.timeout(IDLE_S):
                    taken = 0
                    async for chunk in answer.body.chunks():
                        taken += len(chunk)
                        if taken > MAX_EFFECT_ANSWER_BYTES:
                            break
        except OSError:
            pass  # its head is recorded
        finally:
            await answer.close()

    # -- what is held

    async def hold(self, draft: Draft, request: Request, upstream: Sender, interim: Interim) -> Held:
        """Records a request that waits until its branch is committed, until a person has approved it, or both.

        Returns:
            What waits for the answer, and has nothing of the request: thousands may wait, each with its body.

        Raises:
            Refused: It was dropped, or could not be recorded.
        """
        loop = asyncio.get_running_loop()
        asks = draft.approve_within_s is not None
        if asks and self._bell is None:
            self._bell = self._hang_bell()
        waiter = Waiter(loop.create_future(), interim, upstream, list(request.secrets), asks)
        # Before it is recorded: a commit may come at once.
        self._waiters[draft.id] = waiter
        try:
            made = await self.ask(lambda ledger: ledger.hold(draft, self._place.gateway))
            if made.state == "dropped":
                raise _not_sent(made)
            if made.state == "released":
                self._background(self._release(line_of(made)))
            elif made.state == "asking":
                self._background(self._look())
        except BaseException:
            del self._waiters[draft.id]
            self._background(self._leave(draft.id, waiter))
            raise
        return partial(self._wait, draft.id, waiter, request)

    async def buffer(self, draft: Draft, request: Request, way: Way) -> Answer:
        """Records a request that is sent once its branch is committed, whoever has gone by then.

        Returns:
            What its client gets now.

        Raises:
            Refused: It was dropped, or could not be recorded.
        """
        way.secrets |= {secret.placeholder: secret for secret in request.secrets}
        self._ways[draft.instance] = way
        made = await self.ask(lambda ledger: ledger.hold(draft, self._place.gateway))
        crash.point("effect.buffered")
        if made.state == "dropped":
            raise _not_sent(made)
        if made.state == "released":
            self._background(self._release(line_of(made)))
        return Answer(
            202, b"Accepted", [(b"content-length", b"0"), (EFFECT, made.id.encode())], Whole(), _nothing
        )

    async def _wait(self, effect: str, waiter: Waiter, request: Request) -> Answer:
        """Waits for the answer to a request that is held.

        Raises:
            ClientGoneError: Its client has gone, and it was dropped; or it is sent, and nobody hears of the answer.
            Refused: It was dropped, or there is no answer.
        """
        watching = asyncio.ensure_future(_gone(request))
        try:
            either: list[asyncio.Future[Any]] = [waiter.answer, watching]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiter.answer.done():
                raise ClientGoneError("it went away while its request waited")
            return waiter.answer.result()
        except BaseException:
            self._background(self._leave(effect, waiter))
            raise
        finally:
            del self._waiters[effect]
            watching.cancel()
            await asyncio.wait([watching])  # it reads from the connection, and the next request comes there

    async def _leave(self, effect: str, waiter: Waiter) -> None:
        """Gives up what a client has waited for: the request while it is held, the answer once it is sent."""
        if waiter.answer.done():
            await self._finish(waiter.answer)
            return
        waiter.answer.cancel()
        with contextlib.suppress(Refused):
            await self.insist(lambda ledger: ledger.drop(effect, "its client went away while it waited"))
            for found in await self.ask(lambda ledger: ledger.named(effect)):
                # Its branch was committed first, or a person was quicker; or others waited behind it.
                if found.state == "released" or waiter.asks:
                    await self._release(line_of(found))

    # -- what waits for a person

    def _hang_bell(self) -> Bell:
        path = bell_of(Path(self._place.gateways), self._place.gateway)
        try:
            return Bell(path, lambda: self._background(self._look()))
        except OSError as error:
            raise Refused(
                "503 Service Unavailable", f"nobody could be asked to approve the request: {error.strerror}."
            ) from None

    async def _look(self) -> None:
        """Acts on what people have said of what waits here for one, or have not said in time."""
        names = [name for name, each in self._waiters.items() if each.asks and not each.answer.done()]
        if not names:
            return
        me = self._place.gateway
        try:
            next_s = await self.insist(lambda ledger: ledger.expire(me))
            found = await self.insist(lambda ledger: ledger.named(*names))
            unsent = await self.insist(lambda ledger: ledger.unsent(me))
        except Refused:
            return  # it ends, or the ledger is damaged, which has been told
        self._set_alarm(next_s)
        for each in found:
            waiter = self._waiters.get(each.id)
            if each.state == "dropped" and waiter is not None and not waiter.answer.done():
                waiter.answer.set_exception(_not_sent(each))
        for line in dict.fromkeys(line_of(each) for each in unsent if each.state == "released"):
            self._background(self._release(line))

    def _set_alarm(self, next_s: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if next_s is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(next_s, lambda: self._background(self._look()))

    # -- what is released

    def settle(self, branch: str, told: socket.socket) -> None:
        """Sends what a commit has released in a branch, in order, and closes a socket when all of it has an outcome.

        Also what a gateway that has died was to send: this one may have been started for that.
        """

        async def work() -> None:
            with told:
                gateways = Path(self._place.gateways)
                if presence.any_dead(gateways):
                    await self._inherit(gateways)
                await self._release(branch)
            await self._look()

        self._background(work())

    async def _release(self, line: str) -> None:
        """Sends what is released of a line, in order, up to what waits for a person: nothing overtakes that.

        What waits for the value of a secret is overtaken by what does not wait for that.
        """
        lock = self._releasing.setdefault(line, asyncio.Lock())
        async with lock:
            # Of one secret the first is first, also where its value comes between the two.
            lacking = set(self._lacking)
            for each in await self.insist(lambda ledger: ledger.unsent(self._place.gateway)):
                if line_of(each) != line:
                    continue
                if each.state == "asking":
                    return
                if each.state == "released":
                    await self._release_one(each, lacking)

    async def _release_one(self, unsent: Unsent, lacking: set[str]) -> None:
        """Sends one, unless it needs a value that is lacking; what it finds to be lacking is added to those."""
        waiter = self._waiters.get(unsent.id)
        try:
            if unsent.key is None:
                answer = await self._send_released(unsent, waiter, lacking)
            else:
                where = unsent.branch or unsent.scope  # outside of branches, the instance
                async with self.alone(where, unsent.scope, unsent.key) as found:
                    if found is None:
                        answer = await self._send_released(unsent, waiter, lacking)
                    else:
                        own = await self.ask(lambda ledger: ledger.get(unsent.id))
                        answer = repetition(found, own.request, own.body, whole=own.whole)
                        why = f"it repeats {found.effect.id}, and was not sent"
                        await self.ask(lambda ledger: ledger.fail(unsent.id, why))
        except _NoValueError as error:
            # It stays released: a gateway that has the value sends it.
            lacking.update(error.why)
            for name, why in error.why.items():
                self._lack(name, why, unsent)
            return
        except Exception as error:  # noqa: BLE001 - recorded, and told; others that were released come after it
            known = (
                error
                if isinstance(error, Refused)
                else Refused(BAD_GATEWAY, f"it could not be sent: {error!r}")
            )
            if waiter is not None and not waiter.answer.done():
                waiter.answer.set_exception(known)
            # Where the ledger itself is what failed, it stays released, and the next gateway sends it.
            with contextlib.suppress(Refused):
                await self.ask(lambda ledger: ledger.fail(unsent.id, str(known)))
            return
        if waiter is not None and not waiter.answer.done():
            waiter.answer.set_result(answer)
        else:
            self._background(self._finish(_ready(answer)))

    async def _send_released(self, unsent: Unsent, waiter: Waiter | None, lacking: set[str]) -> Answer:
        crash.point("effect.released")
        exact = await self.insist(lambda ledger: ledger.get(unsent.id))
        way = self._ways.get(exact.effect.instance)
        upstream: Sender | None = None
        secrets: list[SecretValue] | None = None
        if waiter is not None:
            upstream, secrets = waiter.upstream, waiter.secrets
        elif way is not None and exact.effect.effect == "bufferable":
            upstream, secrets = way.upstream, way.secrets_of(unsent)
        interim = _unheard if waiter is None else waiter.interim
        if unsent.replayed and upstream is None:
            raise Refused(BAD_GATEWAY, "its box has gone, and a replay sends nothing.")
        if secrets is None:
            secrets = await self._look_up(unsent, lacking)
        request = restored(exact, unsent, secrets)
        if unsent.replayed and upstream is not None:
            answer, outcome = await replay(request, upstream, interim)
            await self.insist(lambda ledger: ledger.replay(unsent.id, outcome))
            return answer
        digest = exact.effect.digest if exact.effect.approve_within_s is None else exact.digest
        started = partial(self._started, unsent.id, digest)
        if upstream is not None:
            return await self._send(unsent.id, request, upstream, interim, started)
        own = Redacting(Upstream(self._trust))
        answer = await self._send(unsent.id, request, own, interim, started)
        answer.close = partial(_close_both, answer.close, own)
        return answer

    async def _look_up(self, unsent: Unsent, lacking: Collection[str] = ()) -> list[SecretValue]:
        names = names_of(unsent)
        if known := [name for name in names if name in lacking]:
            raise _NoValueError(dict.fromkeys(known, "it has no value yet"))
        found = await self._lookups.find(names)
        if why := {name: each.message for name, each in found.items() if not isinstance(each, str)}:
            raise _NoValueError(why)
        return looked_up(unsent, {name: each for name, each in found.items() if isinstance(each, str)})

    def _lack(self, name: str, why: str, unsent: Unsent) -> None:
        """Notes that a line waits for the value of a secret."""
        if name not in self._lacking:
            print(
                f"kibo: {unsent.id} cannot be sent before {name} has a value: {why}",
                file=sys.stderr,
                flush=True,
            )
            self._background(self._await_value(name))
        self._lacking.setdefault(name, set()).add(line_of(unsent))

    async def _await_value(self, name: str) -> None:
        """Looks up a value again and again, and once there is one releases the lines that have waited for it."""
        while await self._rest(VALUE_AGAIN_S):
            if isinstance((await self._lookups.find([name]))[name], str):
                for line in self._lacking.pop(name):
                    self._background(self._release(line))
                return

    async def _begun(self, draft: Draft) -> None:
        def begin(ledger: Ledger) -> None:
            try:
                ledger.begin(draft, self._place.gateway)
            except WrongState:
                raise Refused("409 Conflict", OVERTAKEN) from None

        await self.ask(begin)

    async def _started(self, effect: str, digest: str) -> None:
        if await self.insist(lambda ledger: ledger.send(effect, digest)):
            return
        for found in await self.ask(lambda ledger: ledger.named(effect)):
            if found.state == "dropped":
                raise _not_sent(found)
        raise Refused("409 Conflict", OVERTAKEN)

    # -- what is in doubt, at servers that act once on a key

    async def _clear_up(self, effect: str, wait_s: float = 0.0) -> None:
        """Sends what is in doubt again, with its key, until its server has said what came of it.

        Args:
            effect: Which; one that is in doubt no more, or may not be sent again, stays as it is.
            wait_s: For how long not yet.
        """
        if effect in self._clearing:
            return
        self._clearing.add(effect)
        with contextlib.suppress(Refused):  # this gateway ends, or the ledger is damaged, which has been told
            while await self._rest(wait_s):
                found = await self.insist(lambda ledger: ledger.repeatable())
                unsent = next((each for each in found if each.id == effect), None)
                if unsent is None or await self._repeat(unsent):
                    self._clearing.discard(effect)
                    return
                wait_s = min(max(2 * wait_s, AGAIN_LATER_S[0]), AGAIN_LATER_S[1])

    async def _repeat(self, unsent: Unsent) -> bool:
        """Sends one again. Returns whether there is nothing more to do about it here."""
        own = Redacting(Upstream(self._trust))
        try:
            exact = await self.insist(lambda ledger: ledger.get(unsent.id))
            request = restored(exact, unsent, await self._look_up(unsent))
            begun = partial(self._repeated, unsent.id)
            answer = await self._send(unsent.id, request, own, _unheard, begun, repetition=True)
            await self._finish(_ready(answer))
        except _NoValueError as error:
            print(f"kibo: {unsent.id} cannot be sent again: {error}", file=sys.stderr, flush=True)
            return False
        except Refused:
            return False  # it is in doubt still, as the ledger has it, or another gateway is at it
        finally:
            own.close()
        return True

    async def _repeated(self, effect: str) -> None:
        if not await self.insist(lambda ledger: ledger.repeat(effect, self._place.gateway)):
            raise Refused("409 Conflict", OVERTAKEN)

    # -- repetitions

    @contextlib.asynccontextmanager
    async def alone(self, where: str, scope: str, key: str) -> AsyncIterator[Exact | None]:
        """Waits until no other request of a branch with the same key is on its way. Gives what was sent with it."""
        lock = self._alone.setdefault((where, scope, key), asyncio.Lock())
        async with lock:
            yield await self.ask(lambda ledger: ledger.sent_with(scope, key))

    # -- beginning and end

    def start(self) -> None:
        """Begins, in the background: buries the gateways that have died here, those that die later as well."""
        self._background(self._watch())

    async def _watch(self) -> None:
        gateways = Path(self._place.gateways)
        with contextlib.suppress(Refused):  # it ends, or the ledger is damaged, which has been told
            while not self._over.is_set():
                if presence.any_dead(gateways):
                    await self._inherit(gateways)
                await self._rest(WATCH_S)

    async def _inherit(self, gateways: Path) -> None:
        """Buries the dead, and sends what they had still to send."""
        url = self._place.store
        if url.startswith("sqlite:///") and not os.path.exists(url.removeprefix("sqlite:///")):
            return  # there is no ledger yet
        me = self._place.gateway
        await self.insist(lambda ledger: presence.bury_dead(ledger, gateways, me))
        unsent = await self.insist(lambda ledger: ledger.unsent(me))
        for line in dict.fromkeys(line_of(each) for each in unsent if each.state == "released"):
            self._background(self._release(line))
        for each in await self.insist(lambda ledger: ledger.repeatable()):
            self._background(self._clear_up(each.id))

    async def _rest(self, seconds: float) -> bool:
        """Waits, or until this gateway ends. Returns whether it goes on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return not self._over.is_set()

    async def close(self) -> None:
        """Waits for what is on its way, for a moment. Everything else is in the ledger."""
        self._over.set()
        self._set_alarm(None)
        if self._bell is not None:
            self._bell.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_ANSWERS_S)
        me = self._place.gateway
        with contextlib.suppress(Refused):  # whoever comes next looks again
            if self._clearing:
                pass  # the next one goes on with it
            elif self._opened is None or not await self.ask(lambda ledger: ledger.unsent(me)):
                presence.forget(Path(self._place.gateways), me)
        self._thread.shutdown()

    def _background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _not_sent(effect: Effect) -> Refused:
    """Makes the page for a request that waited, and is not going to be sent."""
    then = ""
    if effect.approve_within_s is not None:
        then = (
            f" A person has to approve it: whoever asks again has somebody look at `kibo effects` and say so with "
            f"`kibo approve`, within {effect.approve_within_s:g} s."
        )
    return Refused("403 Forbidden", f"the request, {effect.id}, was not sent: {effect.reason}.{then}")


async def _gone(request: Request) -> None:
    if request.gone is None:
        await asyncio.get_running_loop().create_future()
    else:
        await request.gone()


async def _ready(answer: Answer) -> Answer:
    return answer


async def _close_both(close: Callable[[], Awaitable[None]], upstream: Sender) -> None:
    await close()
    upstream.close()


async def _nothing() -> None:
    """Nothing is open."""


async def _unheard(status: int, fields: Fields) -> None:
    """Interim answers are for who waits."""
