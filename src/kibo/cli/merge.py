"""`kibo merge`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from kibo.branch.standing import CommittedHere
from kibo.cli.branches import counted, records, short
from kibo.cli.commit import delivered, document, told
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, visible
from kibo.model.errors import InvalidInput, MergeConflict
from kibo.runtime.trees.conflict import KEEP, OURS, THEIRS, Conflict, Resolution
from kibo.runtime.trees.globs import compile_globs

#: Lines of each conflict that a person is shown; JSON has all.
_SHOWN: Final = 40
_Patterns = Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)]


def merge(
    branch: str,
    /,
    *,
    ours: _Patterns = None,
    theirs: _Patterns = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Join what a branch and its parent have become since the fork into the parent, text line by line.

    What only one side changed is taken. Where both sides changed the same, each such path is named with its lines,
    and nothing is changed: say for each which side to take. A branch that runs in a living process is merged there.

    Args:
        branch: Its id, the beginning of its id, or its name.
        ours: Take the parent's version of conflicts at this path, or in this directory: `/work/notes.txt`,
            `/work/**/*.json`; of one instance `NAME:/work`. Repeat it for several.
        theirs: Take the branch's version.
        common: Options of every command.
    """
    chosen = _Chosen(ours or (), theirs or ())
    with records() as here:
        try:
            done = delivered(here, here.standing().merge(branch, chosen))
        except MergeConflict as error:
            error.hint = (
                f"`kibo merge {branch} --theirs PATH` takes the branch's version of a path, --ours the parent's; "
                "`kibo commit --overwrite` the whole branch. For anything else, merge(resolver) in Python."
            )
            if common.json:
                error.details["paths"] = [_described(each) for each in error.conflicts]
            else:
                sys.stderr.writelines(f"{line}\n" for line in _lines(error.conflicts))
            raise
    _show(done, chosen, as_json=common.json)


class _Chosen:
    """Decides conflicts by the patterns that their paths match, and keeps what it decided.

    Args:
        ours: Patterns of paths for which the parent's side is taken.
        theirs: Of those for which the branch's is.

    Raises:
        InvalidInput: One does not begin at the root of an instance.
    """

    def __init__(self, ours: Sequence[str], theirs: Sequence[str]) -> None:
        self._ours, self._theirs = [[_split(each) for each in side] for side in (ours, theirs)]
        self.taken: list[dict[str, str]] = []

    def __call__(self, conflict: Conflict) -> Resolution:
        """Returns the side to take; the conflict stays where no pattern matches.

        Raises:
            InvalidInput: Patterns of both sides match.
        """
        ours, theirs = (_matches(conflict, side) for side in (self._ours, self._theirs))
        if ours and theirs:
            raise InvalidInput(
                f"--ours and --theirs both match {conflict.shown}",
                hint="Name that path for one of the two, and give narrower patterns.",
                details={"instance": conflict.instance, "path": conflict.shown},
            )
        if not ours and not theirs:
            return KEEP
        self.taken.append(
            {
                "instance": conflict.instance,
                "path": conflict.shown,
                "kind": conflict.kind,
                "choice": "ours" if ours else "theirs",
            }
        )
        return OURS if ours else THEIRS


def _split(pattern: str) -> tuple[str, str]:
    """Splits ``NAME:/path``; the name is empty where the pattern is of every instance."""
    if pattern.startswith("/"):
        return "", pattern
    name, found, path = pattern.partition(":/")
    if not found:
        raise InvalidInput(
            f"{pattern!r} does not begin at the root of an instance",
            hint="Write /work/notes.txt, /work/**/*.json, or Name:/work for one instance.",
        )
    return name, f"/{path}"


def _matches(conflict: Conflict, patterns: Sequence[tuple[str, str]]) -> bool:
    wanted = [path for name, path in patterns if name in ("", conflict.instance)]
    return compile_globs(wanted).fullmatch(conflict.path) is not None


def _described(conflict: Conflict) -> dict[str, Any]:
    """A conflict for programs: with the stretches of text that clash."""
    clashes = [
        {side: getattr(clash, side).decode() for side in ("base", "ours", "theirs")}
        for clash in conflict.clashes()
    ]
    return conflict.to_dict() | {"clashes": clashes}


def _lines(conflicts: Sequence[Conflict]) -> Iterator[str]:
    """Conflicts for people: each with what either side has there, and its text with the usual markers."""
    several = len({conflict.instance for conflict in conflicts}) > 1
    for conflict in conflicts:
        where = f"{conflict.instance}:" if several or not conflict.path else ""
        sides = [
            f"{name} {'nothing' if node is None else f'{node.kind}, {node.size} B, mode {node.mode:o}'}"
            for name, node in (("ours", conflict.ours), ("theirs", conflict.theirs))
        ]
        yield f"conflict: {visible(where + conflict.shown)} ({conflict.kind}): {'; '.join(sides)}"
        lines = [line for clash in conflict.clashes() for line in clash.marked().decode().splitlines()]
        yield from (f"  {visible(line, chr(9))}" for line in lines[:_SHOWN])
        if len(lines) > _SHOWN:
            yield f"  … and {counted(len(lines) - _SHOWN, 'line', 'lines')}; --json has all"


def _show(done: CommittedHere, chosen: _Chosen, *, as_json: bool) -> None:
    committed = done.committed
    if as_json:
        print_json(document(done) | {"resolved": chosen.taken})
        return
    lines = [f"merged {short(committed.branch)} into {short(committed.parent)}", *told(done)]
    lines += [f"{one['choice']}: {visible(one['path'])}" for one in chosen.taken]
    print_value("\n".join(lines))
