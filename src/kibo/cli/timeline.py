"""`kibo timeline`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.cli.scheduled import scheduled
from kibo.model.errors import InvalidInput
from kibo.schedule.following import timeline_of
from kibo.schedule.timeline import Timeline

#: How wide it is drawn for what is no terminal.
_WIDTH = 120


def timeline(
    run: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Draw a run's way: how long it was queued, launched, at work, held, and what happened when.

    Args:
        run: Its id, or the beginning of its id.
        output: Draw it into this file instead: a picture where it ends in .svg, a page where it ends in .html.
        common: Options of every command.
    """
    if output is not None and output.suffix not in (".svg", ".html"):
        raise InvalidInput(
            f"{str(output)!r} is the name of no drawing", hint="End it in .svg or .html; or leave -o out."
        )
    with scheduled() as here:
        found = timeline_of(here.runs, here.runs.called(run).id)
    if output is not None:
        _write(output, found.svg() if output.suffix == ".svg" else found.html())
    if common.json:
        print_json(document(found) | ({} if output is None else {"file": str(output)}))
    elif output is not None:
        print_value(f"drawn in {output}")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
        print_value(found.text(width))


def document(found: Timeline) -> dict[str, Any]:
    """Returns a timeline as JSON holds it."""
    return {
        "run": found.run,
        "name": found.name,
        "state": found.state,
        "over": found.over,
        "began_at_s": found.began_at_s,
        "seconds": found.seconds,
        "spans": [each._asdict() for each in found.spans],
        "marks": [each._asdict() for each in found.marks],
        "warnings": list(found.warnings),
    }


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", hint="Name a file in a directory that is there."
        ) from error
