"""Sessions: profiles, their versions, and who holds them.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"


def _on_mysql(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _text(length: int) -> Any:
    return _on_mysql(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


def _key() -> Any:
    kind = _on_mysql(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def _position() -> Any:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("position", kind, primary_key=True, autoincrement=True)


def _tables() -> list[sa.Table]:
    metadata = sa.MetaData()
    long_text = _on_mysql(sa.Text(), mysql.LONGTEXT(charset="utf8mb4"))
    long_bytes = _on_mysql(sa.LargeBinary(), mysql.LONGBLOB())
    sa.Table(
        "profiles",
        metadata,
        sa.Column("id", _key(), primary_key=True),
        sa.Column("name", _text(200), nullable=False, unique=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    sa.Table(
        "profile_versions",
        metadata,
        sa.Column("profile", _key(), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("files", long_bytes, nullable=False),
        sa.Column("author", _text(200), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    sa.Table(
        "profile_leases",
        metadata,
        _position(),
        sa.Column("id", _key(), nullable=False, unique=True),
        sa.Column("profile", _key(), nullable=False),
        sa.Column("state", _key(), nullable=False),
        sa.Column("holder", _text(200), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("idle_s", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("why", long_text, nullable=False),
        sa.Column("until", sa.Double),
        sa.Column("copy", _key()),
        sa.Index("ix_profile_leases_profile", "profile"),
        sqlite_autoincrement=True,
    )
    sa.Table(
        "profile_saves",
        metadata,
        _position(),
        sa.Column("profile", _key(), nullable=False),
        sa.Column("branch", _key(), nullable=False),
        sa.Column("origin", _key(), nullable=False),
        sa.Column("instance", _text(200), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("released", sa.Integer, nullable=False),
        sa.Column("base", long_bytes, nullable=False),
        sa.Column("files", long_bytes, nullable=False),
        sa.Column("author", _text(200), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Index("ix_profile_saves_profile", "profile"),
        sa.Index("ix_profile_saves_branch", "branch"),
        sqlite_autoincrement=True,
    )
    sa.Table(
        "profile_copies",
        metadata,
        sa.Column("id", _key(), primary_key=True),
        sa.Column("profile", _key(), nullable=False),
        sa.Column("lease", _key(), nullable=False),
        sa.Column("directory", long_bytes, nullable=False),
        sa.Column("person", _text(200), nullable=False),
        sa.Column("files", long_bytes, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Index("ix_profile_copies_profile", "profile"),
    )
    sa.Table(
        "profile_trees",
        metadata,
        sa.Column("tree", _key(), primary_key=True),
        sa.Column("profile", _key(), primary_key=True),
    )
    return list(metadata.sorted_tables)


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    for table in _tables():
        table.create(bind, checkfirst=True)
        for index in table.indexes:  # those of a table that was there already
            index.create(bind, checkfirst=True)
