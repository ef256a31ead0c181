"""Statements written in SQLAlchemy Core, compiled once a dialect and run on the driver's own cursor.

What Core adds to each execution (cache keys, result objects, conversions that our types do not need) costs more than
SQLite takes for the statement itself. Written in Core and run by hand, a statement is portable and costs what its
driver does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table, bindparam, insert
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql import ClauseElement

from kibo.store.checking import Row, RowCheck, check_of

__all__ = ["Compiled", "Prepared", "Row", "insertion"]


class Prepared:
    """One statement. Make it once, at module level.

    Args:
        statement: With a `bindparam` for every value.
        checked: Whether a damaged row is an error; if not, whoever reads its rows must take any value.
    """

    __slots__ = ("_checked", "_compiled", "statement")

    def __init__(self, statement: ClauseElement, *, checked: bool = True) -> None:
        self.statement: Final = statement
        self._checked: Final = checked
        self._compiled: dict[str, Compiled] = {}

    def on(self, dialect: Dialect) -> Compiled:
        """Returns the statement as one dialect writes it; compiled on first use."""
        made = self._compiled.get(dialect.name)
        if made is None:
            made = self._compiled[dialect.name] = Compiled(
                self.statement, dialect, check_of(self.statement) if self._checked else None
            )
        return made


def insertion(table: Table, *left_out: str) -> Prepared:
    """Makes the statement that inserts a row, given a value for each column but those that the database numbers."""
    names = [column.name for column in table.columns if column.name not in left_out]
    return Prepared(insert(table).values({name: bindparam(name) for name in names}))


class Compiled:
    """A statement as text, with what its driver needs to be given, and what looks at its rows."""

    __slots__ = ("_names", "_values", "check", "text")

    def __init__(self, statement: ClauseElement, dialect: Dialect, check: RowCheck | None) -> None:
        compiled: Any = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        self.text: Final[str] = str(compiled)
        self._values: Final[dict[str, Any]] = dict(compiled.params)
        self.check: Final = check
        self._names: Final[Sequence[str] | None] = compiled.positiontup

    def arguments(self, values: Mapping[str, Any]) -> Any:
        """Returns the values in the form that the driver takes: by position or by name."""
        if self._names is None:
            return {**self._values, **values}
        if len(values) == len(self._values):
            return [values[name] for name in self._names]
        return [values[name] if name in values else self._values[name] for name in self._names]
