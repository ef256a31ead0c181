"""Brings a database to the tables that this Kibo knows, with alembic, one process at a time.

The migrations are part of the package. Alembic is imported only where there is something to do: it costs more than
opening the store does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import column as named
from sqlalchemy import inspect, select, table
from sqlalchemy.engine import Connection, Engine

from kibo.model.errors import StoreUnavailable
from kibo.store import crash
from kibo.store.dialects.port import DatabaseDialect
from kibo.store.schema import REVISION

SCRIPTS: Final = Path(__file__).with_name("migrations")
_VERSION: Final[Any] = select(named("version_num")).select_from(table("alembic_version"))


def migrate(engine: Engine, dialect: DatabaseDialect, timeout_s: float) -> None:
    """Makes or updates the tables; returns at once where they are as they should be.

    Raises:
        StoreUnavailable: The database was written by a newer Kibo.
    """
    with dialect.migrating(engine, timeout_s) as connection:
        found = revision(connection)
        connection.commit()
        if found != REVISION:
            _upgrade(connection, dialect, found)


def revision(connection: Connection) -> str | None:
    """Returns the migration that a database is at, or None for one without tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(_VERSION).scalar()
    return found


def _upgrade(connection: Connection, dialect: DatabaseDialect, found: str | None) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(SCRIPTS))
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise StoreUnavailable(
            "the store was written by a newer Kibo",
            hint="Use that Kibo, or point this one at a store of its own.",
            details={"store_revision": found, "known_revision": REVISION},
        )

    def steps(revision: Any, _context: Any) -> Any:
        return scripts._upgrade_revs(REVISION, revision)

    with connection.begin():
        dialect.begin(connection.connection.driver_connection, write=True)
        crash.point("migrate.before_upgrade")
        with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=REVISION) as environment:
            environment.configure(connection=connection, transactional_ddl=False)
            environment.run_migrations()
        crash.point("migrate.before_commit")
