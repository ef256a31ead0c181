"""What is wanted, and how far triggers have got.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0011"
down_revision = "0010"


def _long(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _text(length: int) -> Any:
    return _long(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


def _key() -> Any:
    kind = _long(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def _bytes() -> Any:
    return _long(sa.LargeBinary(), mysql.LONGBLOB())


def _tables(metadata: sa.MetaData) -> list[sa.Table]:
    return [
        sa.Table(
            "wanted",
            metadata,
            sa.Column("kind", _key(), primary_key=True),
            sa.Column("name", _text(63), primary_key=True),
            sa.Column("spec", _bytes(), nullable=False),
            sa.Column("work", _bytes(), nullable=False),
            sa.Column("applied", sa.Double, nullable=False),
            sa.Column("done", sa.BigInteger, nullable=False),
            sa.Column("run", _key()),
            sa.Column("problem", _long(sa.Text(), mysql.LONGTEXT(charset="utf8mb4")), nullable=False),
        ),
        sa.Table(
            "wanted_state",
            metadata,
            sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        ),
        sa.Table(
            "heard",
            metadata,
            sa.Column("root", _key(), primary_key=True),
            sa.Column("born", sa.BigInteger, nullable=False),
            sa.Column("head", _key(), nullable=False),
            sa.Column("seq", sa.BigInteger, nullable=False),
        ),
    ]


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    tables = _tables(sa.MetaData())
    for table in tables:
        table.create(bind, checkfirst=True)
    state = tables[1]
    if bind.execute(sa.select(state.c.number)).first() is None:
        bind.execute(state.insert().values(number=1))
