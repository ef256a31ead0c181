"""`kibo abort`."""

from __future__ import annotations

from kibo.cli.branches import records, short
from kibo.cli.effects import document
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible


def abort(branch: str, /, *, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """End a branch and all that was forked from it. What it became can be read until it is collected.

    Args:
        branch: Its id, the beginning of its id, or its name.
        common: Options of every command.
    """
    with records() as here, here.ringing():
        done = here.standing().abort(branch)
    if common.json:
        print_json(
            {
                "aborted": done.branches,
                "process": done.process,
                "to_undo": [document(effect) for effect in done.to_undo],
            }
        )
        return
    lines = [f"aborted {short(each)}" for each in done.branches] or ["it was aborted before"]
    if done.branches and done.process is not None:
        lines.append(
            f"process {done.process} still runs it; it is told when it next forks, commits or seals, and "
            "`kibo stop` ends its instances"
        )
    lines += [f"to undo: {short(each.id)} {visible(each.url)}, {each.state}" for each in done.to_undo]
    print_value("\n".join(lines))
