"""The ledger of effects.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"


def _on_mysql(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _text(length: int) -> Any:
    return _on_mysql(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


def _key() -> Any:
    kind = _on_mysql(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def _table() -> sa.Table:
    long_text = _on_mysql(sa.Text(), mysql.LONGTEXT(charset="utf8mb4"))
    long_bytes = _on_mysql(sa.LargeBinary(), mysql.LONGBLOB())
    return sa.Table(
        "effects",
        sa.MetaData(),
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("id", _key(), nullable=False, unique=True),
        sa.Column("state", _key(), nullable=False),
        sa.Column("reason", long_text, nullable=False),
        sa.Column("branch", _key(), nullable=False),
        sa.Column("origin", _key(), nullable=False),
        sa.Column("instance", _key(), nullable=False),
        sa.Column("gateway", _key(), nullable=False),
        sa.Column("scope", _key(), nullable=False),
        sa.Column("key", _text(64)),
        sa.Column("class", _key(), nullable=False),
        sa.Column("rule", long_bytes, nullable=False),
        sa.Column("secrets", long_bytes, nullable=False),
        sa.Column("method", long_text, nullable=False),
        sa.Column("url", long_text, nullable=False),
        sa.Column("digest", _text(64), nullable=False),
        sa.Column("head", long_bytes, nullable=False),
        sa.Column("body", long_bytes, nullable=False),
        sa.Column("whole", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("released", sa.Double),
        sa.Column("sent", sa.Double),
        sa.Column("ended", sa.Double),
        sa.Column("status", sa.Integer),
        sa.Column("answer_head", long_bytes),
        sa.Column("answer_body", long_bytes),
        sa.Column("answer_whole", sa.Integer),
        sa.Index("ix_effects_branch", "branch", "state"),
        sa.Index("ix_effects_origin", "origin"),
        sa.Index("ix_effects_gateway", "gateway", "state"),
        sa.Index("ix_effects_key", "scope", "key"),
        sqlite_autoincrement=True,
    )


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    table = _table()
    table.create(bind, checkfirst=True)
    for index in table.indexes:  # those of a table that was there already
        index.create(bind, checkfirst=True)
