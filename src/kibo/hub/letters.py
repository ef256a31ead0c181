"""What becomes of one message at one recipient: a letter, as one table of states. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from kibo.hub.entries import Address
from kibo.model.limits import RETRY_FIRST_S

#: By the state of a letter, what may happen to it and what it is then. What is not listed changes nothing: branches are
#: joined, and the log may then tell of a letter twice.
TRANSITIONS: Final[dict[tuple[str, str], str]] = {
    ("accepted", "hub.taken"): "delivered",
    ("retry", "hub.taken"): "delivered",
    ("delivered", "hub.taken"): "delivered",  # whoever had taken it has ended since
    ("delivered", "hub.returned"): "accepted",
    ("delivered", "hub.failed"): "retry",
    ("accepted", "hub.dead"): "dead",
    ("delivered", "hub.dead"): "dead",
    ("retry", "hub.dead"): "dead",
    ("dead", "hub.revived"): "accepted",
    # Handled is handled, wherever that was.
    ("accepted", "hub.consumed"): "consumed",
    ("delivered", "hub.consumed"): "consumed",
    ("retry", "hub.consumed"): "consumed",
    ("dead", "hub.consumed"): "consumed",
}


class Letter(NamedTuple):
    """One message at one recipient.

    Attributes:
        message: The message's id.
        number: The recipient's place in the message's list.
        address: The recipient.
        seq: The message's number in the log.
        state: See `kibo.model.message.Delivery`.
        attempts: How often it was taken.
        due_s: Before which time it is not to be delivered, in seconds since 1970; 0 for at once.
        why: Why it was given back, or up.
    """

    message: str
    number: int
    address: Address
    seq: int
    state: str = "accepted"
    attempts: int = 0
    due_s: float = 0.0
    why: str = ""


def step(letter: Letter, kind: str, at_s: float, why: str = "") -> Letter:
    """Returns what an entry of the log makes of a letter.

    Args:
        letter: It.
        kind: The entry's.
        at_s: When it was written.
        why: What it says of the reason.
    """
    state = TRANSITIONS.get((letter.state, kind))
    if state is None:
        return letter
    if kind == "hub.taken":
        return letter._replace(state=state, attempts=letter.attempts + 1, due_s=0.0)
    if kind == "hub.returned":
        return letter._replace(state=state, attempts=max(0, letter.attempts - 1))
    if kind == "hub.failed":
        return letter._replace(state=state, why=why, due_s=at_s + backoff_s(letter.attempts))
    if kind == "hub.revived":
        return letter._replace(state=state, attempts=0, due_s=0.0, why="")
    return letter._replace(state=state, why=why)


def backoff_s(attempts: int) -> float:
    """Returns how long after so many attempts the next one begins."""
    return float(RETRY_FIRST_S * 2 ** max(0, attempts - 1))
