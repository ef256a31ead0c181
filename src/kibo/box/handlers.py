"""The methods of a Box that handle messages and events, as a runtime needs to know them."""

from __future__ import annotations

from kibo.box.define import Action, Box
from kibo.box.inheritance import attributes_of
from kibo.model.record import Record


class Handler(Record):
    """One method that handles.

    Attributes:
        part: The index of the part that has it.
        name: The part's class and the method.
        method: The method.
        event: The pattern of the events that it handles; empty for messages to the instance.
        group: Of all handlers in a branch that have one, each event goes to one; empty for those that get all.
        timeout_s: Seconds it may take; None leaves it to the limits.
    """

    part: int
    name: str
    method: str
    event: str
    group: str = ""
    timeout_s: float | None = None


def handlers_of(cls: type[Box], part: int = 0) -> list[Handler]:
    """Returns the handlers of a class, its bases' first."""
    found = []
    for name, value in attributes_of(cls).items():
        method = value.function if isinstance(value, Action) else value
        event = getattr(method, "__kibo_event__", None)
        if isinstance(event, str):
            group, timeout_s = getattr(method, "__kibo_handler__", ("", None))
            found.append(Handler(part, f"{cls.__name__}.{name}", name, event, group, timeout_s))
    return found
