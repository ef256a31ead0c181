"""What three versions of a table come to, row by row and column by column. Nothing is guessed.

Pure: rows are plain tuples by their keys. One side is taken as it is, and what the other changed is put on top; which
is which matters only where one of them has changed the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: One value that a database can hold.
Value = None | int | float | str | bytes
Key = tuple[Value, ...]
Row = tuple[Value, ...]

#: Why two sides cannot both stand: `cell` both changed it, differently; `deleted` one removed the row that the other
#: changed; `added` both made a row with this key, differently; `constraint` the rows together break one; `reference`
#: one points at a row that the other removed; `schema` one changed columns or tables that the other wrote to.
ClashKind = Literal["cell", "deleted", "added", "constraint", "reference", "schema"]


@dataclass(frozen=True, slots=True)
class Clash:
    """One thing in a database that two sides did differently.

    Attributes:
        kind: Why.
        table: Where.
        key: The row's key; empty where a whole table is meant.
        column: Which column, or empty for the row.
        base: What both came from: the cell, or the row by columns; None where there was none.
        ours: What our side has.
        theirs: What their side has.
        message: More of it, in words.
    """

    kind: ClashKind
    table: str
    key: Key = ()
    column: str = ""
    base: Any = None
    ours: Any = None
    theirs: Any = None
    message: str = ""

    def __str__(self) -> str:
        place = f"{self.table}{list(self.key) if self.key else ''}{f'.{self.column}' if self.column else ''}"
        return f"{self.kind} {place}: {self.message or f'{self.base!r} became {self.ours!r} and {self.theirs!r}'}"


@dataclass(frozen=True, slots=True)
class Table:
    """One version of a table.

    Attributes:
        columns: Their names, in the order of a row's values.
        rows: By key.
        key: The columns of the key, or of a table without one what stands for SQLite's own row number.
    """

    columns: tuple[str, ...]
    rows: Mapping[Key, Row]
    key: tuple[str, ...] = ()

    def named(self, key: Key) -> dict[str, Value] | None:
        """Returns a row with its columns' names; None where there is none."""
        row = self.rows.get(key)
        return None if row is None else dict(zip(self.columns, row, strict=True))


@dataclass(slots=True)
class Changes:
    """What is to be done to the side that is taken as it is.

    Attributes:
        removed: Keys of rows that go.
        written: Rows that are put in place of those with the same key, or added, with their columns' names.
        clashes: What cannot be joined. Where there is any, nothing is to be done.
    """

    removed: list[Key] = field(default_factory=list)
    written: dict[Key, dict[str, Value]] = field(default_factory=dict)
    clashes: list[Clash] = field(default_factory=list)


def same(one: Value, two: Value) -> bool:
    """Whether two values are the same to a database, which tells 1 from 1.0."""
    return type(one) is type(two) and one == two


def changed(base: Table, other: Table) -> Iterator[Key]:
    """Yields the keys whose rows differ; both versions have the same columns."""
    for key in base.rows.keys() | other.rows.keys():
        one, two = base.rows.get(key), other.rows.get(key)
        if one is None or two is None or not all(map(same, one, two)):
            yield key


def merge_table(name: str, base: Table, taken: Table, other: Table, *, taken_is_ours: bool = True) -> Changes:
    """Puts what one side changed on top of another.

    Args:
        name: The table's name.
        base: What both came from.
        taken: The side that is taken as it is. It may have other columns than the base.
        other: The side whose changes are put on top; has the base's columns.
        taken_is_ours: Which side that is, for clashes.
    """
    made = Changes()
    for key in sorted(changed(base, other), key=repr):
        _merge_row(made, name, key, (base.named(key), taken.named(key), other.named(key)), taken_is_ours)
    return made


_Named = dict[str, Value] | None


def _merge_row(
    made: Changes, table: str, key: Key, sides: tuple[_Named, _Named, _Named], taken_is_ours: bool
) -> None:
    def clash(kind: ClashKind, column: str, was: Any, mine: Any, its: Any, message: str = "") -> None:
        ours, theirs = (mine, its) if taken_is_ours else (its, mine)
        made.clashes.append(Clash(kind, table, key, column, was, ours, theirs, message))

    base, taken, other = sides
    if other is None:
        if taken is not None and base is not None and not _kept(base, taken):
            clash("deleted", "", base, taken, None)
        elif taken is not None:
            made.removed.append(key)
    elif taken is None:
        if base is not None:
            clash("deleted", "", base, None, other)
        else:
            made.written[key] = dict(other)
    elif base is None:
        if not all(column in taken and same(taken[column], value) for column, value in other.items()):
            clash("added", "", None, taken, other)
    else:
        merged = dict(taken)
        for column, value in other.items():
            if same(value, base[column]) or (column in taken and same(value, taken[column])):
                continue
            if column not in taken:
                clash("schema", column, base[column], None, value, "the column was removed, and written to")
            elif same(taken[column], base[column]):
                merged[column] = value
            else:
                clash("cell", column, base[column], taken[column], value)
        if not all(same(merged[column], taken[column]) for column in taken):
            made.written[key] = merged


def _kept(base: Mapping[str, Value], taken: Mapping[str, Value]) -> bool:
    """Whether a side left a row as it was, as far as the base knows its columns."""
    return all(column not in taken or same(taken[column], value) for column, value in base.items())
