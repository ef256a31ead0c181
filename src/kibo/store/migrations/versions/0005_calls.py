"""Calls of actions in the ledger of effects.

Safe to run again: MariaDB commits each column by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"


def _text(length: int) -> Any:
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def upgrade() -> None:
    """Adds what is missing."""
    inspector = sa.inspect(op.get_bind())
    there = {column["name"] for column in inspector.get_columns("effects")}
    if not inspector.has_table("call_keys"):
        op.create_table("call_keys", sa.Column("name", _text(64), primary_key=True))
    within = _text(40).with_variant(sa.String(40, collation="C"), "postgresql")
    for column in (
        sa.Column("action", _text(200)),
        sa.Column("undo", _text(200)),
        sa.Column("within", within),
    ):
        if column.name not in there:
            op.add_column("effects", column)
    if "ix_effects_within" not in {index["name"] for index in inspector.get_indexes("effects")}:
        op.create_index("ix_effects_within", "effects", ["within"])
