"""`kibo commit`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kibo.branch.standing import CommittedHere
from kibo.cli.branches import counted, records, short
from kibo.cli.options import Common
from kibo.cli.output import duration, print_json, print_value, visible

if TYPE_CHECKING:
    from kibo.wiring.records import Records


def commit(
    branch: str,
    /,
    *,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Make a branch's parent what the branch was when it was sealed last. Other forks of the parent become stale.

    A branch that runs in a living process is committed there.

    Args:
        branch: Its id, the beginning of its id, or its name.
        overwrite: Commit even where the parent has moved; what it had become is left behind, and can be read.
        common: Options of every command.
    """
    with records() as here:
        done = delivered(here, here.standing().commit(branch, overwrite=overwrite))
    committed = done.committed
    if common.json:
        print_json(document(done))
        return
    lines = [
        f"committed {short(committed.branch)} into {short(committed.parent)}: "
        f"what it had sealed {duration(done.sealed_s)} ago",
        *told(done),
    ]
    if not committed.fast_forward:
        lines.append(f"what the parent had become is left behind: {short(committed.before)}")
    print_value("\n".join(lines))


def delivered(here: Records, done: CommittedHere) -> CommittedHere:
    """Has what a commit or a merge has released sent."""
    from kibo.wiring.delivering import deliver  # late: few commits release anything

    return replace(done, committed=deliver(here, done.committed)) if done.committed.effects else done


def document(done: CommittedHere) -> dict[str, Any]:
    """What a commit or a merge did, for programs."""
    committed = done.committed
    return {
        "branch": committed.branch,
        "parent": committed.parent,
        "head": committed.head,
        "before": committed.before,
        "fast_forward": committed.fast_forward,
        "sealed_s": round(done.sealed_s, 3),
        "stale": done.stale,
        "effects": [
            {"id": each.id, "state": each.state, "status": each.status, "reason": each.reason}
            for each in committed.effects
        ],
    }


def told(done: CommittedHere) -> list[str]:
    """What a commit or a merge did, for people: where the parent is, and what has become stale, and what came of
    what the branch had asked the outside world for.
    """
    lines = [f"the parent's head is {short(done.committed.head)}"]
    if done.stale:
        names = ", ".join(short(each) for each in done.stale)
        lines.append(f"{counted(len(done.stale), 'branch is', 'branches are')} stale now: {names}")
    for each in done.committed.effects:
        why = f": {each.reason}" if each.reason else ""
        lines.append(f"{each.id} is {each.state}{why}: {each.method} {visible(each.url)}")
    return lines
