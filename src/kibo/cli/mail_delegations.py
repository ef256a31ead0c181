"""`kibo mail delegations`."""

from __future__ import annotations

import time

from kibo.branch.delegations import told
from kibo.branch.owning import lives
from kibo.cli.branches import records, short
from kibo.cli.mail import post_of
from kibo.cli.options import Common
from kibo.cli.output import duration, excerpt, print_json, print_table, print_value

#: Characters of a reason in the table.
_SHOWN = 60


def mail_delegations(branch: str | None = None, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """List what instances of a branch have had each other do, and what became of each: the newest 10,000.

    Begun: it is under way, or waits for its turn. Lost: the process that saw to it has ended, or it was begun in
    another branch, and how it ended is not known; what it has done is there, as far as it came.

    Args:
        branch: Its id, the beginning of its id, or its name; the newest root by default.
        common: Options of every command.
    """
    with records() as here:
        post = post_of(here, branch)
        known, record = post.delegations(), here.history.get(post.branch)
        found = [told(each, record, lambda name: lives(here.home, name)) for each in known]
    if common.json:
        print_json([each.as_dict() for each in found])
    elif not found:
        print_value("no delegations")
    else:
        now = time.time()
        print_table(
            ("ID", "FROM", "TO", "ACTION", "STATE", "AGE", "WHY"),
            [
                (
                    short(each.id),
                    each.sender,
                    each.to,
                    each.action,
                    each.state,
                    duration(now - each.at_s),
                    excerpt(each.why, _SHOWN) or "-",
                )
                for each in found
            ],
        )
