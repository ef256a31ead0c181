"""What rows must be before anybody believes them: of their columns' types, and within what those hold.

SQLite keeps in any column whatever it was given, and a file may have been damaged or changed by hand. So every row that
a statement returns is looked at here, once, where it becomes a value; nobody after this meets text for a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Column, Double, Integer, LargeBinary, Select
from sqlalchemy.sql import ClauseElement, ColumnElement, Join

from kibo.model.errors import StoreDamaged

Row = tuple[Any, ...]
#: Under which a column's `info` has what tells whether a value of its type is one of its values.
HOLDS: Final = "holds"
#: Characters of a value that an error shows.
_SHOWN: Final = 80


class RowCheck:
    """Looks at the rows of one statement. About 0.3 us a row, and 0.1 for each column that says what it holds.

    Args:
        columns: What the statement selects.
        optional: Those that are null where an outer join found nothing.
    """

    __slots__ = ("_columns", "_known", "_values")

    def __init__(self, columns: Sequence[ColumnElement[Any]], optional: Iterable[ColumnElement[Any]]) -> None:
        loose = set(optional)
        self._columns: Final = [_Expected(each, optional=each in loose) for each in columns]
        self._values: Final = [(n, each.holds) for n, each in enumerate(self._columns) if each.holds]
        #: Types that have been seen to be right: there are few.
        self._known: Final[set[tuple[type, ...]]] = set()

    def check(self, row: Row, asked: Mapping[str, Any]) -> None:
        """Looks at one row.

        Args:
            row: As the driver gave it.
            asked: What the statement was given, which tells of a row where its key was not selected.

        Raises:
            StoreDamaged: It is none such; the error names it.
        """
        types = tuple(map(type, row))
        if types not in self._known:
            for kind, expected, value in zip(types, self._columns, row, strict=True):
                if kind not in expected.types:
                    raise self._damaged(expected, row, value, asked)
            self._known.add(types)
        for number, holds in self._values:
            value = row[number]
            if value is not None and not holds(value):
                raise self._damaged(self._columns[number], row, value, asked)

    def holds(self, row: Row) -> bool:
        """Tells whether a row is what it must be."""
        try:
            self.check(row, {})
        except StoreDamaged:
            return False
        return True

    def _damaged(
        self, expected: _Expected, row: Row, value: object, asked: Mapping[str, Any]
    ) -> StoreDamaged:
        key = {
            each.name: _shown(found)
            for each, found in zip(self._columns, row, strict=True)
            if each.key and each.table == expected.table
        } or {name: _shown(given) for name, given in asked.items()}
        return damaged(expected.table, expected.name, key, f"holds {_shown(value)}")


class _Expected:
    """What one column of a statement is: a table's, or computed."""

    __slots__ = ("holds", "key", "name", "table", "types")

    def __init__(self, selected: ColumnElement[Any], *, optional: bool) -> None:
        base = next(iter(selected.base_columns))
        column: Column[Any] | None = base if isinstance(base, Column) else None
        self.table = "" if column is None else str(column.table.name)
        self.name = str(getattr(selected, "name", selected))
        self.key = column is not None and bool(column.primary_key or column.unique)
        self.holds: Callable[[Any], bool] | None = None if column is None else column.info.get(HOLDS)
        self.types = {type_of(selected)}
        if optional or (column is not None and column.nullable):
            self.types.add(type(None))


def check_of(statement: ClauseElement) -> RowCheck | None:
    """Makes the check of a statement's rows; None where it returns none."""
    if not isinstance(statement, Select):
        return None
    optional = [
        each
        for source in statement.get_final_froms()
        if isinstance(source, Join) and source.isouter
        for each in source.right.exported_columns
    ]
    return RowCheck(list(statement.selected_columns), optional)


def damaged(table: str, column: str, key: Mapping[str, Any], what: str) -> StoreDamaged:
    """Makes the error for a row that cannot be what it is.

    Args:
        table: Where it is.
        column: Which column is wrong.
        key: What the row is found by.
        what: What is wrong with it.
    """
    named = ", ".join(f"{name}={value}" for name, value in key.items()) or "unknown"
    return StoreDamaged(
        f"the store is damaged: {column} of the row {named} of {table or 'a query'} {what}",
        details={"table": table, "column": column, "row": dict(key)},
    )


def type_of(column: ColumnElement[Any]) -> type:
    """Returns the type that a column's values have, null aside."""
    if isinstance(column.type, Integer):
        return int
    if isinstance(column.type, Double):
        return float
    return bytes if isinstance(column.type, LargeBinary) else str


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"
