"""Calls of actions that are recorded, as whoever makes them and the ledger both know them."""

from typing import Any, Literal, NamedTuple

from kibo.model.asker import Asker


class Call(NamedTuple):
    """A call that is to be recorded.

    Attributes:
        box: The digest of the definition.
        part: The index of the part that it is an action of.
        action: The class and the name of the action.
        effect: Its class of effects.
        undo: The name of what undoes it, or None.
        key: What it is one intent of, or None where each call is another.
        arguments: By name, packed.
        asker: On whose behalf it is made.
        instance: Which makes it.
    """

    box: str
    part: int
    action: str
    effect: str
    undo: str | None
    key: str | None
    arguments: bytes
    asker: Asker
    instance: str


class Begun(NamedTuple):
    """What the ledger says of a call that is to be made.

    Attributes:
        effect: Its name there: of this call, or of the one that its key stands for.
        state: ``new``: it is to be made. ``done``: it was made before. ``going``: it is being made elsewhere.
            ``in_doubt``: it may have been. ``other``: its key stands for a call with other arguments.
        result: What one that was made before returned.
        known: Whether that is known.
    """

    effect: str
    state: Literal["new", "done", "going", "in_doubt", "other"]
    result: Any = None
    known: bool = False
