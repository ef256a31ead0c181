"""Runs: what the scheduler must not forget.

Safe to run again: MariaDB commits each table by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0010"
down_revision = "0009"


def _long(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _text(length: int) -> Any:
    return _long(sa.String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"))


def _key() -> Any:
    kind = _long(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def _position() -> Any:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _bytes() -> Any:
    return _long(sa.LargeBinary(), mysql.LONGBLOB())


def _moment(name: str, *, nullable: bool = False) -> list[sa.Column[Any]]:
    return [
        sa.Column(name, sa.Double, nullable=nullable),
        sa.Column(f"{name}_up", sa.Double, nullable=nullable),
        sa.Column(f"{name}_boot", _key(), nullable=nullable),
    ]


def _tables(metadata: sa.MetaData) -> list[sa.Table]:
    return [
        sa.Table(
            "runs",
            metadata,
            sa.Column("position", _position(), primary_key=True, autoincrement=True),
            sa.Column("id", _key(), nullable=False, unique=True),
            sa.Column("key", _text(64), unique=True),
            sa.Column("tree", _key(), nullable=False),
            sa.Column("parent", _key()),
            sa.Column("depth", sa.Integer, nullable=False),
            sa.Column("fork", sa.BigInteger, nullable=False),
            sa.Column("tenant", _text(200), nullable=False),
            sa.Column("subject", _text(200)),
            sa.Column("state", _key(), nullable=False),
            sa.Column("version", sa.BigInteger, nullable=False),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("step", sa.Integer, nullable=False),
            sa.Column("tries", sa.Integer, nullable=False),
            sa.Column("losses", sa.Integer, nullable=False),
            sa.Column("failure", _bytes()),
            sa.Column("snapshot", _text(200)),
            sa.Column("variation", _long(sa.Text(), mysql.LONGTEXT(charset="utf8mb4")), nullable=False),
            sa.Column("budget", _key()),
            sa.Column("rollback", sa.Integer, nullable=False),
            *_moment("created"),
            *_moment("entered"),
            sa.Column("pause_s", sa.Double, nullable=False),
            sa.Column("request", _bytes(), nullable=False),
            sa.Column("work", _bytes(), nullable=False),
            sa.Column("result", _bytes()),
            sa.Column("reserved_tokens", sa.BigInteger, nullable=False),
            sa.Column("reserved_money", sa.BigInteger, nullable=False),
            sa.Index("ix_runs_state", "state"),
            sa.Index("ix_runs_tree", "tree"),
            sa.Index("ix_runs_subject", "tenant", "subject"),
            sqlite_autoincrement=True,
        ),
        sa.Table(
            "run_after",
            metadata,
            sa.Column("run", _key(), primary_key=True),
            sa.Column("dependency", _key(), primary_key=True),
            sa.Column("how", _key(), nullable=False),
            sa.Index("ix_run_after_dependency", "dependency"),
        ),
        sa.Table(
            "attempts",
            metadata,
            sa.Column("run", _key(), primary_key=True),
            sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("kind", _key(), nullable=False),
            sa.Column("node", _text(200), nullable=False),
            sa.Column("node_epoch", sa.BigInteger, nullable=False),
            *_moment("placed"),
            *_moment("begun", nullable=True),
            sa.Column("ended", sa.Double),
            sa.Column("outcome", _key()),
            sa.Index("ix_attempts_placed", "placed"),
        ),
        sa.Table(
            "run_events",
            metadata,
            sa.Column("position", _position(), primary_key=True, autoincrement=True),
            sa.Column("run", _key(), nullable=False),
            sa.Column("kind", _key(), nullable=False),
            sa.Column("at", sa.Double, nullable=False),
            sa.Column("body", _bytes(), nullable=False),
            sa.Index("ix_run_events_run", "run", "position"),
            sqlite_autoincrement=True,
        ),
        sa.Table(
            "run_changes",
            metadata,
            sa.Column("position", _position(), primary_key=True, autoincrement=True),
            sa.Column("run", _key(), nullable=False),
            sqlite_autoincrement=True,
        ),
        sa.Table(
            "budgets",
            metadata,
            sa.Column("id", _key(), primary_key=True),
            sa.Column("seconds", sa.Double),
            sa.Column("branches", sa.BigInteger),
            sa.Column("tokens", sa.BigInteger),
            sa.Column("money", sa.BigInteger),
            sa.Column("used_branches", sa.BigInteger, nullable=False),
            sa.Column("used_tokens", sa.BigInteger, nullable=False),
            sa.Column("used_money", sa.BigInteger, nullable=False),
            sa.Column("reserved_tokens", sa.BigInteger, nullable=False),
            sa.Column("reserved_money", sa.BigInteger, nullable=False),
            *_moment("began", nullable=True),
        ),
        sa.Table(
            "tenants",
            metadata,
            sa.Column("name", _text(200), primary_key=True),
            sa.Column("weight", sa.Double, nullable=False),
            sa.Column("most_queued", sa.BigInteger, nullable=False),
            sa.Column("queued", sa.BigInteger, nullable=False),
        ),
        sa.Table(
            "leases",
            metadata,
            sa.Column("name", _text(200), primary_key=True),
            sa.Column("holder", _text(200), nullable=False),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("beat", sa.BigInteger, nullable=False),
        ),
    ]


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    for table in _tables(sa.MetaData()):
        table.create(bind, checkfirst=True)
        for index in table.indexes:  # those of a table that was there already
            index.create(bind, checkfirst=True)
