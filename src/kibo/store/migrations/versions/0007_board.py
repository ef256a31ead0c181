"""The boards of trees of branches.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"


def _on_mysql(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _text(length: int) -> Any:
    return _on_mysql(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


def _key() -> Any:
    kind = _on_mysql(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    position = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    table = sa.Table(
        "board",
        sa.MetaData(),
        sa.Column("position", position, primary_key=True, autoincrement=True),
        sa.Column("tree", _key(), nullable=False),
        sa.Column("origin", _key(), nullable=False),
        sa.Column("author", _text(200), nullable=False),
        sa.Column("body", _on_mysql(sa.LargeBinary(), mysql.LONGBLOB()), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Index("ix_board_tree", "tree"),
        sqlite_autoincrement=True,
    )
    table.create(bind, checkfirst=True)
    for index in table.indexes:  # that of a table that was there already
        index.create(bind, checkfirst=True)
