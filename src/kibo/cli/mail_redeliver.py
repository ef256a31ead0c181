"""`kibo mail redeliver`."""

from __future__ import annotations

from kibo.cli.branches import counted, records
from kibo.cli.mail import post_of
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.model.errors import MessageUnknown
from kibo.model.ids import MessageId


def mail_redeliver(branch: str, message: str, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Have a message delivered that could not be. A program that runs the branch does so at once, or its next one.

    Args:
        branch: Its id, the beginning of its id, or its name.
        message: The message's id, or the beginning of its id.
        common: Options of every command.
    """
    with records() as here:
        post = post_of(here, branch)
        found = {each.message.id for each in post.dead() if each.message.id.startswith(message)}
        if len(found) != 1 or not message.startswith(MessageId.prefix):
            raise MessageUnknown(
                f"branch {post.branch} has {len(found) or 'no'} dead letters of {message}",
                hint="`kibo mail BRANCH --dead` lists them.",
                details={"message": message, "candidates": sorted(found)},
            )
        with here.wakeups.ringing():
            count = post.revive(*found)
    if common.json:
        print_json({"message": found.pop(), "recipients": count})
    else:
        print_value(f"{found.pop()} is delivered again, to {counted(count, 'recipient', 'recipients')}")
