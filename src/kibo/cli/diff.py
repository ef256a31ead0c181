"""`kibo diff`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.cli.branches import standing
from kibo.cli.instances import open_instance
from kibo.cli.options import Common
from kibo.cli.output import print_json, size, visible
from kibo.model.errors import InstanceUnknown, InvalidInput, SnapshotUnknown
from kibo.model.ids import BranchId, InstanceId, SnapshotId
from kibo.runtime.handle import Change

_LETTERS = {"added": "A", "changed": "M", "removed": "D"}


def diff(
    a: str,
    b: str | None = None,
    /,
    *,
    patch: Annotated[bool, Parameter(name=["--patch", "-p"], negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List the files that an instance or a branch has changed, or that differ between two branches or snapshots.

    A added, M changed, D removed. Of a running instance it is what changed since it was spawned, as it is now; of a
    branch or snapshot what was sealed last, compared with the start of its tree or with a second one.

    Args:
        a: An instance (its id, the first digits of its id, or its name), or else a branch, a snapshot or a label.
        b: A branch, a snapshot or a label, to compare A with.
        patch: Print the lines that differ, as `git apply -p2` takes them for a workspace. Not of an instance.
        common: Options of every command.
    """
    if patch and common.json:
        raise InvalidInput("--patch prints no JSON", hint="Take one of --patch and --json.")
    if b is None and not a.startswith((BranchId.prefix, SnapshotId.prefix)):
        try:
            instance = open_instance(a)
        except InstanceUnknown as error:
            if error.details.get("candidates") or a.startswith(InstanceId.prefix):
                raise
        else:
            if patch:
                raise InvalidInput(f"{a} is an instance, which has no patch", hint="Leave --patch out.")
            _show(instance.diff(), as_json=common.json)
            return
    with standing() as here:
        try:
            if patch:
                _print(here.patch(a, b))
                return
            _show(list(here.diff(a, b)), as_json=common.json)
        except SnapshotUnknown as error:
            if b is None and not error.details.get("candidates"):
                raise SnapshotUnknown(
                    f"no instance, branch or snapshot is called {a!r}",
                    hint="`kibo ps` lists instances, `kibo tree --all` branches.",
                    details=error.details,
                ) from None
            raise


def _print(patch: Iterator[bytes]) -> None:
    """Prints a patch byte by byte for a program, and harmless to a terminal for a person."""
    person = sys.stdout.isatty()
    for piece in patch:
        shown = visible(os.fsdecode(piece), "\n\t").encode() if person else piece
        sys.stdout.buffer.write(shown)


def _show(changes: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        print_json([_document(change) for change in changes])
        return
    several = len({_instance(change) for change in changes}) > 1
    for change in changes:
        shown = "" if change.kind == "removed" or change.path.endswith("/") else f"  ({size(change.size)})"
        where = f"{_instance(change)}:" if several else ""
        sys.stdout.write(f"{_LETTERS[change.kind]} {where}{visible(change.path)}{shown}\n")


def _instance(change: Change) -> str:
    return getattr(change, "instance", "")


def _document(change: Change) -> dict[str, Any]:
    own = {"instance": _instance(change)} if _instance(change) else {}
    return {"kind": change.kind, "path": change.path, "size": change.size, **own}
