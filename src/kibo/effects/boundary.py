"""What a box's requests meet on their way out: reads pass, effects go through the ledger, and wait for their branch."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, Body, Fields, Interim, Request, Sender, filled, gather
from kibo.effects.http_head import Head
from kibo.effects.notations import Replacing
from kibo.effects.outbox import Held, Outbox, Way
from kibo.effects.packed import PackedRule, PackedSecret
from kibo.effects.records import PACK, Draft, Payload, key_digest
from kibo.effects.repeating import repetition
from kibo.effects.sending import KEY, ready
from kibo.effects.window import Window
from kibo.model.asker import Asker
from kibo.model.ids import EffectId
from kibo.model.limits import MAX_EFFECT_BODY_BYTES


class Boundary:
    """One box's requests; see `Exchange`.

    Args:
        instance: The box.
        asker: On whose behalf it asks; another once its branch is committed.
        upstream: What its requests are sent by.
        outbox: Records those that change something; None for a gateway without a ledger, which holds nothing.
    """

    def __init__(self, instance: str, asker: Asker, upstream: Sender, outbox: Outbox | None) -> None:
        self.asker = asker
        self._instance = instance
        self._upstream = upstream
        self._outbox = outbox
        self._window: Window | None = None
        #: What sends for the box what nobody in it waits for.
        self._way = Way(upstream)

    def enter(self, window: Window) -> None:
        """Notes that what the box asks for is part of a call, for as long as a window is open."""
        self.close()
        self._window = window

    def close(self) -> None:
        """Ends that."""
        if self._window is not None:
            self._window.close()

    async def send(self, request: Request, interim: Interim) -> Answer:
        """Answers a request; see `Exchange.send`."""
        if request.effect != "read" and self._outbox is not None:
            answer = await self._effect(request, interim, self._outbox)
            # What waits is in the ledger: here, nobody has its body any more.
            return answer if isinstance(answer, Answer) else await answer()
        if request.secrets and request.fillable:
            body, rest = await gather(request, interim, MAX_EFFECT_BODY_BYTES)
            request = self._made(request, body, rest)
        elif request.secrets:
            request, _ = filled(request, None)
        return await self._upstream.send(request, interim)

    async def _effect(self, request: Request, interim: Interim, outbox: Outbox) -> Answer | Held:
        body, rest = b"", None
        # One that came before, or whose body ends after, is not part of the action.
        window = self._window if self._window is not None and self._window.open else None
        if request.has_body:
            body, rest = await gather(request, interim, MAX_EFFECT_BODY_BYTES)
        asker, within, holds = self.asker, None, self.asker.holds
        # Nothing happens outside in a replay that a person would have to allow.
        approve_within_s = None if asker.replays else request.approve_within_s
        if window is not None and window.open:
            within = window.effect
            held = request.always_held or request.approve_within_s is not None or rest is not None
            holds = holds and (held or not window.lets_out)
        waits = holds or approve_within_s is not None
        if rest is not None and waits:
            until = "its branch is committed" if approve_within_s is None else "a person has approved it"
            raise Refused(
                "413 Content Too Large",
                f"a request that changes something waits until {until}, and its body may have "
                f"{MAX_EFFECT_BODY_BYTES} bytes then. Send it from the root of the tree, in parts, or, if it changes "
                f'nothing, say so: Allow("{request.rule.target}", effect="read").',
            )
        draft = self._draft(request, asker, body, approve_within_s, within, whole=rest is None)
        if not waits:
            await outbox.released(draft.branch)
        if draft.key is None:
            return await self._fresh(draft, request, rest, interim, outbox, waits=waits)
        if waits:
            # Those of one key wait side by side: which of them is sent is decided when they are released.
            scope, key = draft.scope, draft.key
            found = await outbox.ask(lambda ledger: ledger.sent_with(scope, key))
            if found is not None:
                return repetition(found, draft.request, draft.body, whole=draft.whole)
            return await self._fresh(draft, request, rest, interim, outbox, waits=True)
        async with outbox.alone(asker.branch or self._instance, draft.scope, draft.key) as found:
            if found is not None:
                return repetition(found, draft.request, draft.body, whole=draft.whole)
            return await self._fresh(draft, request, rest, interim, outbox, waits=False)

    async def _fresh(
        self,
        draft: Draft,
        request: Request,
        rest: AsyncIterator[bytes] | None,
        interim: Interim,
        outbox: Outbox,
        *,
        waits: bool,
    ) -> Answer | Held:
        if waits and draft.effect == "bufferable":
            return await outbox.buffer(draft, request, self._way)
        if waits:
            return await outbox.hold(draft, request, self._upstream, interim)
        request = self._made(request, draft.body, rest)
        return await outbox.send(draft, request, self._upstream, interim)

    @staticmethod
    def _made(request: Request, body: bytes, rest: AsyncIterator[bytes] | None) -> Request:
        """Makes a request anew whose body has been read: whole, or as far as is kept."""
        if rest is None:
            return ready(request, body, request.body.trailers if request.has_body else [])
        made, _ = filled(request, None)
        made.body = Streamed(body, rest, request.body)
        if request.secrets and request.fillable:
            made.body = Filling(made.body, request)
        return made

    def _draft(
        self,
        request: Request,
        asker: Asker,
        body: bytes,
        approve_within_s: float | None,
        within: str | None,
        *,
        whole: bool,
    ) -> Draft:
        keys = [value for name, value in request.fields if name == KEY]
        payload = Payload(
            request.secure,
            request.host,
            request.port,
            request.method,
            request.target,
            request.fields,
            request.body.trailers if whole and request.has_body else [],
            request.has_body,
            request.upgrade,
            request.fillable,
        )
        # What has an answer that somebody waits for is nothing that can be sent later.
        answered = request.upgrade or request.approve_within_s is not None
        return Draft(
            EffectId.new(),
            "irreversible" if request.effect == "bufferable" and answered else request.effect,
            asker.branch,
            self._instance,
            asker.scope or self._instance,
            key_digest(keys[0]) if len(keys) == 1 and keys[0] else None,
            PACK.encode(replace(PackedRule.pack(request.rule), idempotent=request.idempotent)),
            PACK.encode([PackedSecret(secret.placeholder, secret.hosts) for secret in request.secrets]),
            payload,
            body,
            whole,
            approve_within_s,
            within=within,
            replayed=asker.replays,
        )


class Streamed:
    """A body of which only the beginning is kept."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], body: Body) -> None:
        self._first = first
        self._rest = rest
        self._body = body

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._body.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces."""
        yield self._first
        async for chunk in self._rest:
            yield chunk


class Filling:
    """A body that secrets are put into as it passes. Where its length was said before, it must stay as long.

    Args:
        body: With placeholders.
        request: What it is of.
    """

    def __init__(self, body: Body, request: Request) -> None:
        self._body = body
        head = Head(request.method, request.target.decode("latin-1"), request.fields)
        write = head.notation()
        self._replacing = Replacing(
            {s.placeholder.encode(): write(s.value).encode() for s in request.secrets}
        )
        self._sized = bool(head.values(b"content-length"))

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._body.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces.

        Raises:
            Refused: Its length would be another than was said.
        """
        async for chunk in self._body.chunks():
            before = len(self._replacing.waiting) + len(chunk)
            clean = self._replacing.feed(chunk)
            if self._sized and before != len(clean) + len(self._replacing.waiting):
                raise Refused(
                    "413 Content Too Large",
                    f"a secret was to go into a body of more than {MAX_EFFECT_BODY_BYTES} bytes whose length was said "
                    "before, and would be another then. Send it in chunks, without a length, or in parts.",
                )
            if clean:
                yield clean
        if rest := self._replacing.end():
            yield rest
