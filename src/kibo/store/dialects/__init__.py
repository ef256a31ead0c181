"""Where databases differ: one module each, and nothing of it anywhere else."""

from __future__ import annotations

from importlib import import_module

from sqlalchemy.engine import URL

from kibo.model.errors import InvalidInput
from kibo.store.dialects.port import DatabaseDialect

#: Which adapter speaks to which database, and what to install for it.
_ADAPTERS = {
    "sqlite": ("sqlite", "SQLite", ""),
    "postgresql+psycopg": ("postgresql", "PostgreSQL", "kibo[postgres]"),
    "mysql+pymysql": ("mysql", "MariaDB", "kibo[mysql]"),
    "mariadb+pymysql": ("mysql", "MariaDB", "kibo[mysql]"),
}


def dialect_for(url: URL) -> DatabaseDialect:
    """Returns the adapter for a database.

    Raises:
        InvalidInput: No adapter speaks to it, or its driver is not installed. Never retry.
    """
    if url.drivername not in _ADAPTERS:
        raise InvalidInput(
            f"no store speaks to {url.drivername!r}",
            hint="Use sqlite:///path, postgresql+psycopg://... or mysql+pymysql://...",
            details={"known": sorted(_ADAPTERS)},
        )
    module, name, extra = _ADAPTERS[url.drivername]
    try:
        made: DatabaseDialect = import_module(f"{__name__}.{module}").DIALECT
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"the driver for {name} is not installed", hint=f"pip install '{extra}'"
        ) from error
    return made
