"""Requests whose key stands for something already: answered as that was answered, or not at all."""

from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, Whole
from kibo.effects.records import Exact, Payload


def repetition(found: Exact, now: Payload, body: bytes, *, whole: bool) -> Answer:
    """Answers a request by what was sent with its key.

    Args:
        found: What was sent.
        now: The request.
        body: Its body.
        whole: Whether that is all of it.

    Raises:
        Refused: It was another request, or its answer is not known.
    """
    effect, was, outcome = found.effect, found.request, found.outcome
    if (was.method, was.url, found.body) != (now.method, now.url, body) or not (found.whole and whole):
        raise Refused(
            "422 Unprocessable Content",
            f"this Idempotency-Key was used for another request, {effect.id}. A key stands for one: use another.",
        )
    if effect.state in ("done", "replayed") and outcome is not None and outcome.whole:

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
        "replayed": "was replayed, and its answer not kept whole",
        "in_doubt": "may have happened, which nobody has found out yet",
    }
    raise Refused(
        "409 Conflict",
        f"this request was sent before as {effect.id}, which {known.get(effect.state, 'is on its way')}. "
        f"It is not sent again; `kibo effects show {effect.id}` tells more.",
    )
