"""What commands print when all is well: JSON for programs, tables and values for people."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from typing import Any

from kibo.cli.styles import bold, styled
from kibo.model.printable import duration as duration
from kibo.model.printable import excerpt as excerpt
from kibo.model.printable import visible as visible


def print_json(document: Any) -> None:
    """Prints one JSON document on one line, at once: the reader may follow along."""
    text = json.dumps(document, ensure_ascii=False, default=jsonable)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        # A file's name that is no text: as escapes, from which `os.fsencode` gets the bytes back.
        text = json.dumps(document, default=jsonable)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def jsonable(value: Any) -> Any:
    """Returns a result of an action as JSON can hold it: bytes as an object with ``base64``."""
    from kibo.box.results import to_builtins

    return _without_bytes(to_builtins(value))


def _without_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(key): _without_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    return value


def print_value(value: Any) -> None:
    """Prints a result for people: text and bytes as they are, nothing for None, the rest as indented JSON."""
    if value is None:
        return
    if isinstance(value, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    elif isinstance(value, str):
        sys.stdout.write(value if value.endswith("\n") else value + "\n")
    elif styled(sys.stdout):
        from rich import print_json as rich_json

        rich_json(data=jsonable(value))
    else:
        sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def written(value: Any) -> str:
    """Returns a value as one line of JSON, for people."""
    return json.dumps(jsonable(value), ensure_ascii=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: fitted to a terminal, and whole, with two spaces between columns, for anything else.

    Its cells may be anybody's: a goal may come with a snapshot from elsewhere.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    if styled(sys.stdout):
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*(_unmarked(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    for number, row in enumerate((columns, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        sys.stdout.write((bold(line) if number == 0 else line) + "\n")


def _unmarked(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def size(count: int) -> str:
    """Returns a number of bytes as a person says it."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes all")
