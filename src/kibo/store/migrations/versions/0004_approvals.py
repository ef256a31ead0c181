"""What a person has to approve, and who has.

Safe to run again: MariaDB commits each column by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"


def _text(length: int) -> Any:
    kind = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(kind, "mysql", "mariadb")


def upgrade() -> None:
    """Adds what is missing."""
    key = _text(40).with_variant(sa.String(40, collation="C"), "postgresql")
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("effects")}
    for column in (
        sa.Column("approval_s", sa.Double),
        sa.Column("due", sa.Double),
        sa.Column("due_up", sa.Double),
        sa.Column("due_boot", key),
        sa.Column("approved", sa.Double),
        sa.Column("approver", _text(200), nullable=False, server_default=""),
        sa.Column("approved_digest", _text(64)),
    ):
        if column.name not in there:
            op.add_column("effects", column)
