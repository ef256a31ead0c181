"""A context as providers' lists of messages, and as lines of JSON that hold all of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from kibo.context.canonical import canonical, checked_json
from kibo.context.entries import (
    Assistant,
    ContextEntry,
    Covered,
    Memory,
    Pin,
    Said,
    Summary,
    System,
    ToolResult,
    Unpin,
    from_json,
)
from kibo.context.parts import Format, checked_calls, checked_parts
from kibo.context.rendering import joined, pieces_of, system_piece
from kibo.context.units import calls_of, group
from kibo.model.errors import ContextInvalid
from kibo.model.ids import EntryId

#: What the first line of a file says.
HEAD: Final = {"kibo": "context", "version": 1}


def messages_of(entries: Iterable[ContextEntry], format: Format) -> list[dict[str, Any]]:
    """Writes entries as a provider's list of messages: all of them, whatever a prompt would have room for.

    Instructions come first, as messages whose role is ``system``. Calls that still wait for a result are not in it.
    """
    known = list(entries)
    pieces = [system_piece(entry, format) for entry in known if isinstance(entry, System)]
    shown = [entry for entry in known if not isinstance(entry, Summary)]
    pieces += [piece for unit in group(shown).units for piece in pieces_of(unit, format)]
    return joined(pieces, format)


def lines_of(entries: Iterable[ContextEntry]) -> Iterator[str]:
    """Writes entries as lines of JSON, from which `entries_from` reads them."""
    yield canonical(HEAD)
    for entry in entries:
        origin = {} if entry.origin is None else {"origin": entry.origin}
        yield canonical(
            {"kind": entry.word, "seq": entry.seq, "at_s": entry.at_s, "body": entry.body(), **origin}
        )


def entries_from(lines: Iterable[str], start: int, *, empty: bool) -> list[ContextEntry]:
    """Reads what `lines_of` wrote, as new entries with ids of their own.

    Args:
        lines: The lines.
        start: The number of the entry before the first of them.
        empty: Whether nothing is in the context that they come into.

    Raises:
        ContextInvalid: A line is none, or names an entry that is in none before it; the error names it.
    """
    read = [_line(number, line) for number, line in enumerate(lines) if line.strip()]
    if not read or read[0][1] != HEAD:
        raise ContextInvalid(
            "these are no lines of a context", hint="The first line says so: write them with export('jsonl')."
        )
    made = _Renewed(start, empty)
    for number, value in read[1:]:
        try:
            old = from_json(value["kind"], checked_json(value["body"], "an entry"), int(value["seq"]))
            made.add(old, number)
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(number, f"it is no entry: {error!r}") from error
    return made.entries


def _line(number: int, line: str) -> tuple[int, Any]:
    try:
        return number, json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(number, f"it is no JSON: {error}") from error


def _bad(number: int, what: str) -> ContextInvalid:
    return ContextInvalid(
        f"line {number + 1} of a context: {what}",
        hint="Nothing was imported. Export it again, or take that line out.",
        details={"line": number + 1},
    )


class _Renewed:
    """Entries of a file, as those of another context: under new ids, which what names them names too."""

    def __init__(self, start: int, empty: bool) -> None:
        self.entries: list[ContextEntry] = []
        self._start = start
        self._empty = empty
        self._new: dict[str, ContextEntry] = {}

    def add(self, old: ContextEntry, number: int) -> None:
        if isinstance(old, Said):
            checked_parts(old.parts, f"line {number + 1}", empty=isinstance(old, ToolResult | Assistant))
        checked_calls(calls_of(old))
        body: dict[str, Any] = old.body() | {"id": EntryId.new()}
        seq = self._start + len(self.entries) + 1
        if isinstance(old, Memory):
            body |= {name: self._named(getattr(old, name), number) for name in ("source", "supersedes")}
        elif isinstance(old, Unpin):
            body["entry"] = self._named(old.entry, number)
        elif isinstance(old, Pin):
            body["entry"] = self._named(old.entry, number)
            held = [self._at(each.id, number) for each in old.held]
            body["held"] = [{"kind": each.word, "seq": each.seq, "body": each.body()} for each in held]
        elif isinstance(old, Summary):
            body["covers"] = self._covered(old.covers, number)
        made = from_json(old.word, {key: value for key, value in body.items() if value is not None}, seq)
        self._new[old.id] = made
        self.entries.append(made)

    def _at(self, old: str, number: int) -> ContextEntry:
        found = self._new.get(old)
        if found is None:
            raise _bad(number, f"it names {old}, which is in no line before it")
        return found

    def _named(self, old: str | None, number: int) -> str | None:
        return None if old is None else self._at(old, number).id

    def _covered(self, covers: Covered, number: int) -> dict[str, Any]:
        if not self._empty:
            raise _bad(number, "it is a summary, which would stand for what is there already, too")
        first, last = self._at(covers.first, number), self._at(covers.last, number)
        return {"first": first.id, "last": last.id, "through": last.seq, "count": covers.count}
