"""`kibo apply`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.branch.hostdir.apply import Applied
from kibo.branch.hostdir.plan import ApplyPlan
from kibo.branch.records import BranchRecord
from kibo.cli.branches import short, standing
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.model.errors import HostDrift, InvalidInput

_LETTERS = {"create": "A", "replace": "M", "attributes": "M", "remove": "D"}


def apply(
    branch: str | None = None,
    /,
    *,
    file: Annotated[
        Sequence[str], Parameter(name=["--file", "-f"], negative="", allow_leading_hyphen=True)
    ] = (),
    prune: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Bring a root's files to this host's directories, or with -f have what a file says be wanted; all or nothing.

    Of a root that still runs it is what was sealed last. Where the host's files have changed meanwhile, each such path
    is named and nothing is written. What files say is wanted from then on, whatever becomes of this command; `kibo up`
    has it happen.

    Args:
        branch: The root, open or finished; by default the only one that has something to apply.
        file: A file of YAML that says what is wanted; several are applied together. - is standard input.
        prune: All that is wanted and that no file given here says is wanted no more.
        dry_run: Only tell what would be done, and which of the host's files stand in the way.
        common: Options of every command.
    """
    if file:
        if branch is not None:
            raise InvalidInput("both a branch and a file", hint="Apply one after the other.")
        from kibo.cli.wanted import apply_files  # late: it brings the scheduler along

        apply_files(file, prune=prune, dry_run=dry_run, as_json=common.json)
        return
    if prune:
        raise InvalidInput("--prune without a file", hint="Say with -f what is to stay wanted.")
    with standing() as here:
        if dry_run:
            root, plans = here.plan(branch)
            _show_plans(root, plans, as_json=common.json)
            return
        try:
            root, done = here.apply(branch)
        except HostDrift as error:
            if not common.json:
                for drift in error.details["paths"]:
                    sys.stderr.write(f"drift: {visible(drift['path'])} ({drift['how']})\n")
            raise
    _show_done(root, done, as_json=common.json)


def _show_plans(root: BranchRecord, plans: Mapping[str, ApplyPlan], *, as_json: bool) -> None:
    drift = {name: [one.to_dict(plan.frozen.host) for one in plan.drift()] for name, plan in plans.items()}
    if as_json:
        instances = {name: plan.to_dict() | {"drift": drift[name]} for name, plan in plans.items()}
        print_json({"branch": root.id, "dry_run": True, "instances": instances})
        return
    lines = [] if plans else [_nothing(root)]
    for name, plan in plans.items():
        told = plan.to_dict()
        lines.append(
            f"{name} to {told['host']}:" if plan.operations else f"{name}: {told['host']} has it all"
        )
        lines += [f"{_LETTERS[one['deed']]} {visible(one['path'])}" for one in told["operations"]]
        lines += [f"left out (socket or device): {visible(path)}" for path in told["dropped"]]
        lines += [f"drift: {visible(one['path'])} ({one['how']})" for one in drift[name]]
    print_value("\n".join(lines))


def _show_done(root: BranchRecord, done: Mapping[str, Applied], *, as_json: bool) -> None:
    told = {name: _document(applied) for name, applied in done.items()}
    if as_json:
        print_json({"branch": root.id, "dry_run": False, "instances": told})
        return
    lines = [f"applied {short(root.id)} ({root.name})"] if done else [_nothing(root)]
    for name, applied in told.items():
        letters = {"created": "A", "replaced": "M", "attributes": "M", "removed": "D"}
        changed = sorted((path, letters[deed]) for deed in letters for path in applied[deed])
        host = visible(applied["host"])
        lines.append(f"{name} to {host}:" if changed else f"{name}: {host} has it all")
        lines += [f"{letter} {visible(path)}" for path, letter in changed]
        lines += [f"the host had it already: {visible(path)}" for path in applied["already"]]
        lines += [f"left out (socket or device): {visible(path)}" for path in applied["dropped"]]
    print_value("\n".join(lines))


def _document(applied: Applied) -> dict[str, Any]:
    return {"host": os.fspath(applied.host)} | {
        deed: [os.fsdecode(path) for path in getattr(applied, deed)]
        for deed in ("created", "replaced", "removed", "attributes", "already", "dropped")
    }


def _nothing(root: BranchRecord) -> str:
    return f"no instance of {short(root.id)} ({root.name}) has a workspace of this host"
