"""`kibo diff`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.branch.comparing import Comparison, MessageDifference
from kibo.cli.branches import short, standing
from kibo.cli.context import document as context_document
from kibo.cli.effects import document as effect_document
from kibo.cli.instances import open_instance
from kibo.cli.mail import document as message_document
from kibo.cli.options import Common
from kibo.cli.output import excerpt, print_json, size, visible, written
from kibo.model.errors import InstanceUnknown, InvalidInput, SnapshotUnknown
from kibo.model.ids import BranchId, InstanceId, SnapshotId
from kibo.model.message import Delivery
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
    """List the files that an instance has changed, or all that differs between two branches or snapshots.

    A added, M changed, D removed. Of a running instance it is its files, as they are now, and what changed since it was
    spawned. Of a branch or snapshot it is also context, messages, effects and labels, compared with the start of its
    tree or with a second one; a branch's files are those that were sealed last, all else is as it is now.

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
            changes = instance.diff()
            if common.json:
                print_json({"files": [_file(change) for change in changes]})
            else:
                _print_files(changes)
            return
    with standing() as here:
        try:
            if patch:
                _print(here.patch(a, b))
            elif common.json:
                print_json(_document(here.compare(a, b)))
            else:
                _print_comparison(here.compare(a, b))
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


def _print_files(changes: Sequence[Change]) -> None:
    several = len({_instance(change) for change in changes}) > 1
    for change in changes:
        shown = "" if change.kind == "removed" or change.path.endswith("/") else f"  ({size(change.size)})"
        where = f"{_instance(change)}:" if several else ""
        _print_line(change.kind, f"{where}{change.path}{shown}")


def _print_comparison(found: Comparison) -> None:
    _print_files(found.files)
    for entry in found.context:
        _print_line(entry.kind, f"context {entry.item.word}: {excerpt(entry.item.text)}")
    for each in found.messages:
        message = each.message
        what = (
            f"event {message.event} of {message.sender}"
            if message.event
            else f"message {message.sender} to {message.to}"
        )
        states = " -> ".join(_states(side) for side in (each.before, each.after) if side)
        _print_line(each.kind, f"{what}: {excerpt(written(message.body))}{f'  ({states})' if states else ''}")
    for effect in found.effects:
        asked = effect.item
        _print_line(effect.kind, f"effect {asked.method} {asked.url}  ({asked.state}, {short(asked.id)})")
    for label in found.labels:
        _print_line(label.kind, f"label {label.item}")


def _print_line(kind: str, text: str) -> None:
    sys.stdout.write(f"{_LETTERS[kind]} {visible(text)}\n")


def _states(deliveries: Sequence[Delivery]) -> str:
    return ", ".join(dict.fromkeys(each.state for each in deliveries))


def _instance(change: Change) -> str:
    return getattr(change, "instance", "")


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "files": [_file(change) for change in found.files],
        "context": [{"change": each.kind, **context_document(each.item)} for each in found.context],
        "messages": [_message(each) for each in found.messages],
        "effects": [{"change": each.kind, **effect_document(each.item)} for each in found.effects],
        "labels": [{"change": each.kind, "label": each.item} for each in found.labels],
    }


def _file(change: Change) -> dict[str, Any]:
    own = {"instance": _instance(change)} if _instance(change) else {}
    return {"kind": change.kind, "path": change.path, "size": change.size, **own}


def _message(each: MessageDifference) -> dict[str, Any]:
    sides = {"before": each.before, "after": each.after}
    deliveries = {name: [delivery.as_dict() for delivery in side] for name, side in sides.items()}
    return {"change": each.kind, **message_document(each.message), **deliveries}
