"""What of a branch's mail stands although all that its instances did meanwhile is undone. Decides, and writes nothing.

What was accepted from outside is not lost, and what was handled outside is not handled again. What code in a box sent
is undone with the rest of what it did; what it handled was not handled.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kibo.hub.entries import Delegated, Marked, Sent, Subscribed, decoded, encoded
from kibo.hub.mailboxes import FUNCTION, WAITER, Place
from kibo.store.log import Entry


def accepted(since: Sequence[Entry]) -> list[Entry]:
    """Returns the entries that stand.

    Args:
        since: All entries of the branch since the point that it goes back to, in order.

    Returns:
        Those that stand, in order; of what became of several letters, with those alone that it still became of.
    """
    forms = [(entry, decoded(entry)) for entry in since]
    undone = {form.id for _, form in forms if isinstance(form, Sent) and not _stands(form)}
    handled = {
        tuple(place)
        for entry, form in forms
        if entry.kind == "hub.consumed" and isinstance(form, Marked) and form.inside
        for place in form.of
    }
    found: list[Entry] = []
    for entry, form in forms:
        match form:
            case Sent() if form.id not in undone:
                found.append(entry)
            case Marked():
                left: list[Place] = [
                    place for place in form.of if place[0] not in undone and tuple(place) not in handled
                ]
                if left:
                    found.append(entry._replace(body=encoded(msgspec.structs.replace(form, of=left))))
            case Subscribed() if form.handler.startswith(FUNCTION):
                found.append(entry)
            case Delegated():  # lost: how it ended is undone
                found.append(entry)
            case _:
                pass  # what a box subscribed to, or nothing of the hub's
    return found


def _stands(sent: Sent) -> bool:
    """Whether a message is from outside, and to somebody who is still to get it: who waited for an answer is gone."""
    answer = bool(sent.to) and all(handler.startswith(WAITER) for _, handler in sent.to)
    return not sent.inside and not answer
