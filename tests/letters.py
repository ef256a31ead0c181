"""Mail without boxes: a branch's over a store, and a room that delivers it to functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from kibo.branch.history import History
from kibo.branch.mailroom import Function, Mailroom
from kibo.hub.letters import Letter
from kibo.hub.post import Post
from kibo.runtime.waiting import Blocking


def post(history: History, branch: str | None = None) -> Post:
    """The mail of a branch, a new root's by default."""
    return Post(history.log, branch or history.create().id)


def taken(of: Post, name: str, most: int = 256) -> list[tuple[Letter, Any]]:
    """Takes letters to an instance, with what each says."""
    return [(letter, message.body) for letter, message in of.take((name, ""), most)]


def handled(of: Post, name: str) -> list[Any]:
    """Handles all that waits for an instance, and returns what it said."""
    found: list[Any] = []
    while some := taken(of, name):
        of.settle([letter for letter, _ in some])
        found += [body for _, body in some]
    return found


class Here:
    """An instance that is there, whatever is asked of it: nothing is called in it."""

    def __init__(self) -> None:
        turn = SimpleNamespace(held=False)
        channel = SimpleNamespace(is_open=lambda: True)
        plan = SimpleNamespace(handlers=())
        session = SimpleNamespace(alive=True)
        self.talk: Any = SimpleNamespace(
            ended="", seen_s=0.0, parked=False, turn=turn, channel=channel, plan=plan, session=session
        )
        self.face: Any = SimpleNamespace(_finalizer=SimpleNamespace(alive=True))


def room(
    history: History, branch: str, functions: Mapping[str, Callable[..., Any]], timeout_s: float = 60.0
) -> Mailroom:
    """What delivers the messages of a branch to a function for each instance."""
    members = {name: Here() for name in functions}
    made = Mailroom(
        Blocking(),
        lambda changed: Post(history.log, branch, None, changed),
        lambda: members,
        lambda _seq: False,
    )
    made.functions.update({(name, ""): Function(call, timeout_s) for name, call in functions.items()})
    return made
