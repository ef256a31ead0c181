"""Requests whose key stands for something already: answered as that was answered, or not at all."""

from collections.abc import Iterable
from typing import Final

from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, Whole
from kibo.effects.lifecycle import State
from kibo.effects.records import Exact, Payload

#: Those that have been sent, or are being sent.
_SENT: Final[tuple[State, ...]] = ("sending", "done", "in_doubt")


def repetition(
    found: Iterable[Exact], own: str, payload: Payload, body: bytes, *, whole: bool
) -> Answer | None:
    """Answers a request by what its key stands for; None where that is nothing that was sent.

    Args:
        found: What the key stands for.
        own: The effect of the request itself, which is no repetition of itself.
        payload: The request.
        body: Its body.
        whole: Whether that is all of it.

    Raises:
        Refused: It was another request, or its answer is not known.
    """
    for each in found:
        if each.effect.id != own and each.effect.state in _SENT:
            return _answer(each, payload, body, whole=whole)
    return None


def _answer(found: Exact, now: Payload, body: bytes, *, whole: bool) -> Answer:
    effect, was, outcome = found.effect, found.payload, found.outcome
    if (was.method, was.url, found.body) != (now.method, now.url, body) or not (found.whole and whole):
        raise Refused(
            "422 Unprocessable Content",
            f"this Idempotency-Key was used for another request, {effect.id}. A key stands for one: use another.",
        )
    if effect.state == "done" and outcome is not None and outcome.whole:

        async def close() -> None:
            """Nothing is open."""

        # Its length is another where a secret was taken out of it.
        length = str(len(outcome.body)).encode() if outcome.body else None
        fields = [
            (name, length if length and name == b"content-length" else value)
            for name, value in outcome.fields
        ]
        return Answer(outcome.status, b"", fields, Whole(outcome.body), close)
    known = {
        "done": "has happened, and its answer was not kept whole",
        "in_doubt": "may have happened, which nobody has found out yet",
    }
    raise Refused(
        "409 Conflict",
        f"this request was sent before as {effect.id}, which {known.get(effect.state, 'is on its way')}. "
        f"It is not sent again; `kibo effects show {effect.id}` tells more.",
    )
