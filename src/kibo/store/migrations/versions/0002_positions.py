"""The lists of nearest segments have a place for the position at which a segment begins.

What is known of no older segment stays 0, which says that it is read by its name. Safe to run again: all of it is one
transaction, on every database.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OLD = 16
_PAGE = 1000
_SNAPSHOTS = sa.table("snapshots", sa.column("id", sa.String), sa.column("near", sa.LargeBinary))


def upgrade() -> None:
    """Widens every list."""
    connection, after = op.get_bind(), ""
    while True:
        page = connection.execute(
            sa.select(_SNAPSHOTS).where(_SNAPSHOTS.c.id > after).order_by(_SNAPSHOTS.c.id).limit(_PAGE)
        ).all()
        if not page:
            return
        for snapshot, near in page:
            wide = b"".join(near[start : start + _OLD] + bytes(8) for start in range(0, len(near), _OLD))
            connection.execute(_SNAPSHOTS.update().where(_SNAPSHOTS.c.id == snapshot).values(near=wide))
        after = page[-1][0]
