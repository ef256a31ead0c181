"""Nodes: which ones the dispatcher works with, for whoever looks from outside.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0012"
down_revision = "0011"


def _long(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def upgrade() -> None:
    """Makes the table, where it is missing."""
    name = _long(sa.String(200), mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"))
    table = sa.Table(
        "nodes",
        sa.MetaData(),
        sa.Column("name", name, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("dispatcher", sa.BigInteger, nullable=False),
        sa.Column("body", _long(sa.LargeBinary(), mysql.LONGBLOB()), nullable=False),
    )
    table.create(op.get_bind(), checkfirst=True)
