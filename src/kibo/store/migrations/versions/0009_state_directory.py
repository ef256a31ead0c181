"""Which state directory a database is of.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0009"
down_revision = "0008"


def _key() -> Any:
    own = mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin")
    kind = sa.String(40).with_variant(own, "mysql", "mariadb")
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    """Makes the table, where it is missing."""
    table = sa.Table(
        "state_directory",
        sa.MetaData(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", _key(), nullable=False),
    )
    table.create(op.get_bind(), checkfirst=True)
