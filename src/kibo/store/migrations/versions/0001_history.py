"""Branches, snapshots and the log.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None


def _on_mysql(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _text(length: int) -> Any:
    return _on_mysql(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


def _key() -> Any:
    kind = _on_mysql(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def _tables() -> sa.MetaData:
    tables = sa.MetaData()
    long_text = _on_mysql(sa.Text(), mysql.LONGTEXT(charset="utf8mb4"))
    sa.Table(
        "branches",
        tables,
        sa.Column("id", _key(), primary_key=True),
        sa.Column("tree", _key(), nullable=False),
        sa.Column("parent", _key()),
        sa.Column("name", _text(200), nullable=False),
        sa.Column("goal", long_text, nullable=False),
        sa.Column("status", _key(), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("head", _key(), nullable=False),
        sa.Column("sealed", sa.BigInteger, nullable=False),
        sa.Column("next", _key(), nullable=False),
        sa.Column("tail", sa.BigInteger, nullable=False),
        sa.Column("base", _key()),
        sa.Column("base_seq", sa.BigInteger, nullable=False),
        sa.Column("result", _key()),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("closed", sa.Double),
        sa.Index("ix_branches_tree", "tree"),
        sa.Index("ix_branches_parent", "parent"),
    )
    sa.Table(
        "snapshots",
        tables,
        sa.Column("id", _key(), primary_key=True),
        sa.Column("tree", _key(), nullable=False),
        sa.Column("branch", _key(), nullable=False),
        sa.Column("kind", _key(), nullable=False),
        sa.Column("parent", _key()),
        sa.Column("other", _key()),
        sa.Column("world", long_text),
        sa.Column("entries", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("near", _on_mysql(sa.LargeBinary(), mysql.BLOB()), nullable=False),
        sa.Column("state", _key(), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Index("ix_snapshots_tree", "tree"),
    )
    sa.Table(
        "entries",
        tables,
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("kind", _text(64), nullable=False),
        sa.Column("body", _on_mysql(sa.LargeBinary(), mysql.LONGBLOB()), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("origin", _key()),
        sa.UniqueConstraint("segment", "seq", name="uq_entries_segment_seq"),
        sqlite_autoincrement=True,
    )
    sa.Table(
        "labels",
        tables,
        sa.Column("tree", _key(), primary_key=True),
        sa.Column("label", _text(200), primary_key=True),
        sa.Column("snapshot", _key(), sa.ForeignKey("snapshots.id"), nullable=False, index=True),
    )
    sa.Table(
        "pins",
        tables,
        sa.Column("snapshot", _key(), sa.ForeignKey("snapshots.id"), primary_key=True),
        sa.Column("holder", _text(200), primary_key=True),
        sa.Column("expires", sa.Double),
    )
    sa.Table(
        "unflushed",
        tables,
        sa.Column("snapshot", _key(), primary_key=True),
        sa.Column("host", _text(200), nullable=False),
        sa.Column("boot", _key(), nullable=False),
    )
    sa.Table("garbage", tables, sa.Column("resource", _text(200), primary_key=True))
    return tables


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    tables = _tables()
    tables.create_all(bind, checkfirst=True)
    for table in tables.sorted_tables:
        for index in table.indexes:  # those of a table that was there already
            index.create(bind, checkfirst=True)
