"""A request as it is sent, made of what the ledger has of it; and an answer, as far as the ledger keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from kibo.box.policy import PLACEHOLDER, Allow
from kibo.effects.exchange import Answer, Interim, Request, Sender, Whole, filled
from kibo.effects.http_head import SecretValue
from kibo.effects.packed import RULE, SECRETS
from kibo.effects.records import Exact, Fields, Outcome, Unsent
from kibo.model.limits import MAX_EFFECT_ANSWER_BYTES

#: What a server may tell repetitions by, of its own accord (draft-ietf-httpapi-idempotency-key-header).
KEY: Final = b"idempotency-key"


_SAYS_NOTHING: Final = frozenset((401, 403, 407, 408, 409, 421, 422, 425, 429))


class Kept:
    """The body of an answer as it is passed on, of which the ledger keeps the beginning."""

    def __init__(self, answer: Answer, keep: Callable[[bytes, bool], Awaitable[None]]) -> None:
        self._body = answer.body
        self._keep = keep

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._body.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces."""
        kept, whole = bytearray(), True
        async for chunk in self._body.chunks():
            if whole:
                room = MAX_EFFECT_ANSWER_BYTES - len(kept)
                kept += chunk[:room]
                whole = len(chunk) <= room
                if not whole:  # at once: it may have no end
                    await self._keep(bytes(kept), False)
            yield chunk
        if whole:
            await self._keep(bytes(kept), True)


def keyed(request: Request, effect: str) -> Request:
    """Gives a request a key by which servers can tell repetitions, where it brings none."""
    if all(name != KEY for name, _ in request.fields):
        request.fields = [*request.fields, (KEY, effect.encode())]
    return request


def names_of(unsent: Unsent) -> list[str]:
    """Names the secrets that go into a request."""
    return [placeholder.removeprefix(PLACEHOLDER) for placeholder, _ in SECRETS.decode(unsent.secrets)]


def looked_up(unsent: Unsent, values: Mapping[str, str]) -> list[SecretValue]:
    """Returns what goes into a request that no box waits for, of the values of all its secrets by name."""
    return [
        SecretValue(placeholder, values[placeholder.removeprefix(PLACEHOLDER)], hosts)
        for placeholder, hosts in SECRETS.decode(unsent.secrets)
    ]


def restored(exact: Exact, unsent: Unsent, secrets: list[SecretValue]) -> Request:
    """Makes a request again from what the ledger has of it.

    Args:
        exact: The effect.
        unsent: What it is sent by.
        secrets: With their values.
    """
    payload = exact.request
    rule = RULE.decode(unsent.rule).unpack()
    assert isinstance(rule, Allow)
    request = Request(
        rule,
        payload.secure,
        payload.host,
        payload.port,
        payload.method,
        payload.target,
        payload.fields,
        Whole(),
        payload.has_body,
        payload.upgrade,
        exact.effect.effect,
        exact.effect.approve_within_s,
        secrets,
        payload.fillable,
        idempotent=rule.idempotent,
    )
    return ready(request, exact.body, payload.trailers)


def ready(request: Request, body: bytes, trailers: Fields) -> Request:
    """Puts the values of secrets and the body into a request."""
    if request.secrets:
        request, fuller = filled(request, body if request.fillable else None)
        body = fuller if request.fillable else body
    request.body = Whole(body, trailers)
    return request


def settles(status: int) -> bool:
    """Tells whether the answer to a repetition says what has come of the first: not where its server says that this is
    not the time, not the place, not the sender, or that it is still at it (409), or takes it for something else (422).
    """
    return status < 500 and status not in _SAYS_NOTHING


async def replay(request: Request, sender: Sender, interim: Interim) -> tuple[Answer, Outcome]:
    """Has a recording answer. Returns that, and what the ledger is to have of it.

    Raises:
        Refused: It has no answer.
    """
    answer = await sender.send(request, interim)
    if not is_small(request, answer):
        return answer, Outcome(answer.status, answer.fields, b"", False)
    body = b"".join([chunk async for chunk in answer.body.chunks()])
    answer.body = Whole(body, answer.body.trailers)
    return answer, Outcome(answer.status, answer.fields, body, True)


def is_small(request: Request, answer: Answer) -> bool:
    if request.method == b"HEAD" or answer.status in (204, 304):
        return True
    lengths = [value for name, value in answer.fields if name == b"content-length"]
    return len(lengths) == 1 and lengths[0].isdigit() and int(lengths[0]) <= MAX_EFFECT_ANSWER_BYTES
