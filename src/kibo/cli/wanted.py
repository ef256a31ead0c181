"""What files say is wanted: read, applied, and shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kibo.cli.output import print_json, print_value, visible
from kibo.cli.references import load_box
from kibo.cli.scheduled import scheduled
from kibo.model.errors import InvalidInput
from kibo.schedule.wanted import Trigger
from kibo.wiring.wanting import read_manifest

#: What is given for standard input.
_INPUT = "-"


def apply_files(files: Sequence[str], *, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Has what files say be wanted, and tells what that has changed. Boxes are looked for beside each file."""
    given = [each for file in files for each in _read(file)]
    with scheduled() as here:
        changes = here.wants.apply(given, prune=prune, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "changes": [each._asdict() for each in changes]})
        return
    note = " (dry run)" if dry_run else ""
    lines = [f"{each.kind}/{each.name} {each.what}{note}" for each in changes]
    print_value("\n".join(lines) or "nothing is wanted")


def _read(file: str) -> list[Trigger]:
    try:
        content = sys.stdin.buffer.read() if file == _INPUT else Path(file).read_bytes()
        text = content.decode()
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {visible(file)}", hint="Say with -f where it is.") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{visible(file)} is no UTF-8 text: byte {error.start}", hint="Save the file as UTF-8 text."
        ) from None
    beside = Path() if file == _INPUT else Path(file).parent
    source = "standard input" if file == _INPUT else file
    return read_manifest(text, source, partial(load_box, beside=beside))
