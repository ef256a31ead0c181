"""`kibo mail`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

from cyclopts import Parameter

from kibo.cli.branches import records, short
from kibo.cli.options import Common
from kibo.cli.output import (
    duration,
    excerpt,
    jsonable,
    print_json,
    print_table,
    print_value,
    visible,
    written,
)
from kibo.hub.mailboxes import WAITER
from kibo.hub.post import Post
from kibo.model.errors import BranchUnknown, MessageUnknown
from kibo.model.message import Delivery, Message
from kibo.store.wakeups import Following
from kibo.wiring.records import Records

#: Messages that are read at once.
_PAGE: Final = 1000
#: Characters of a body in the table.
_SHOWN: Final = 60


def mail(
    branch: str | None = None,
    /,
    *,
    dead: Annotated[bool, Parameter(negative="")] = False,
    follow: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List the messages and events that a branch sees, in order, and what has become of each.

    Accepted: it is on the disk. Delivered: a handler has it. Retry: its handler raised, and gets it again. Dead: it
    will not be delivered; `kibo mail redeliver` has it delivered after all.

    Args:
        branch: Its id, the beginning of its id, or its name; the newest root by default.
        dead: List only what could not be delivered, and why.
        follow: Go on with what is sent from now on, one line each, until interrupted.
        common: Options of every command.
    """
    with records() as here:
        post = post_of(here, branch)
        if follow:
            with here.following() as following:
                _follow(post, following, common)
        elif dead:
            found = [
                document(each.message) | {"handler": each.handler, "why": each.why} for each in post.dead()
            ]
            _print(found, ("ID", "FROM", "TO", "EVENT", "BODY", "WHY"), common)
        else:
            found = [
                document(message) | {"deliveries": [each.as_dict() for each in _deliveries(post, message)]}
                for message in _messages(post)
                if not message.to.startswith(WAITER)
            ]
            _print(found, ("ID", "FROM", "TO", "EVENT", "BODY", "STATE", "AGE"), common)


def post_of(here: Records, branch: str | None) -> Post:
    """Returns the mail of a branch, as a process has it that does not run it."""
    if branch is not None:
        return Post(here.history.log, here.history.get(branch).id)
    roots = here.history.roots()
    if not roots:
        raise BranchUnknown("there is no branch yet", hint="`kibo tree` lists branches once there are some.")
    return Post(here.history.log, roots[-1].id)


def _messages(post: Post, after: int = 0) -> Iterator[Message]:
    while found := post.history(after, _PAGE):
        yield from found
        after = found[-1].seq


def _follow(post: Post, following: Following, common: Common) -> None:
    after = 0
    while True:
        for message in _messages(post, after):
            _print_line(message, common)
            after = message.seq
        following.wait()


def _deliveries(post: Post, message: Message) -> list[Delivery]:
    try:
        return post.receipt(message.id)
    except MessageUnknown:
        return []  # consumed long ago


def document(message: Message) -> dict[str, Any]:
    """Returns a message as JSON has it."""
    shown: dict[str, Any] = jsonable(message.as_dict())
    return {name: value for name, value in shown.items() if name not in ("attempt",)}


def _print_line(message: Message, common: Common) -> None:
    if common.json:
        print_json(document(message))
    else:
        what = message.event or f"to {message.to}"
        print_value(
            visible(f"{message.seq}  {message.sender}  {what}  {excerpt(written(message.body), _SHOWN)}")
        )


def _print(found: list[dict[str, Any]], columns: tuple[str, ...], common: Common) -> None:
    if common.json:
        print_json(found)
    elif not found:
        print_value("no messages")
    else:
        print_table(columns, [_row(each)[: len(columns) - 1] + _last(each) for each in found])


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    states = [delivery["state"] for delivery in each.get("deliveries", ())]
    return (
        short(each["id"]),
        each["sender"],
        each["to"] or "-",
        each["event"] or "-",
        excerpt(written(each["body"]), _SHOWN),
        ", ".join(dict.fromkeys(states)) or "-",
    )


def _last(each: dict[str, Any]) -> tuple[str, ...]:
    return (each["why"].partition("\n")[0],) if "why" in each else (duration(time.time() - each["at_s"]),)
