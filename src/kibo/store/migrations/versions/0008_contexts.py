"""Contexts: kinds of entries by an index, the words that a search finds them by, and vectors.

Safe to run again: MariaDB commits each statement by itself, so that a migration killed half-way leaves some.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"

#: Words are found through an index of FTS5's, which triggers keep: whoever deletes an entry need not know of it.
_SQLITE = (
    "CREATE VIRTUAL TABLE context_search USING fts5(words, content='context_words', content_rowid='position', "
    "tokenize='ascii', detail='none', columnsize=0)",
    "CREATE TRIGGER context_words_added AFTER INSERT ON context_words BEGIN "
    "INSERT INTO context_search(rowid, words) VALUES (new.position, new.words); END",
    "CREATE TRIGGER context_words_removed AFTER DELETE ON context_words BEGIN "
    "INSERT INTO context_search(context_search, rowid, words) VALUES ('delete', old.position, old.words); END",
)
_POSTGRESQL = (
    "CREATE INDEX ix_context_words_text ON context_words USING gin (to_tsvector('simple', words))",
)
_MYSQL = ("ALTER TABLE context_words ADD FULLTEXT INDEX ix_context_words_text (words)",)
_SEARCH = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL, "mysql": _MYSQL, "mariadb": _MYSQL}

#: Of most entries nobody looks for the kind: an index of all would cost each append a page.
_RARE = "kind IN ('context.memory', 'context.pin', 'context.summary', 'context.system', 'context.unpin')"


def _on_mysql(kind: Any, variant: Any) -> Any:
    return kind.with_variant(variant, "mysql", "mariadb")


def _key() -> Any:
    kind = _on_mysql(sa.String(40), mysql.VARCHAR(40, charset="utf8mb4", collation="utf8mb4_bin"))
    return kind.with_variant(sa.String(40, collation="C"), "postgresql")


def _position() -> Any:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    entry = sa.ForeignKey("entries.position", ondelete="CASCADE")
    return sa.Column("position", kind, entry, primary_key=True, autoincrement=False)


def _tables(entries: sa.Table) -> list[sa.Table]:
    words = _on_mysql(sa.Text(), mysql.LONGTEXT(charset="ascii", collation="ascii_bin"))
    text = _on_mysql(sa.String(200), mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"))
    return [
        sa.Table(
            "context_words",
            entries.metadata,
            _position(),
            sa.Column("segment", sa.BigInteger, nullable=False),
            sa.Column("seq", sa.BigInteger, nullable=False),
            sa.Column("entry", _key(), nullable=False),
            sa.Column("words", words, nullable=False),
            sa.UniqueConstraint("segment", "seq", name="uq_context_words_segment_seq"),
            sa.Index("ix_context_words_entry", "entry"),
        ),
        sa.Table(
            "context_vectors",
            entries.metadata,
            _position(),
            sa.Column("model", text, primary_key=True),
            sa.Column("vector", _on_mysql(sa.LargeBinary(), mysql.LONGBLOB()), nullable=False),
        ),
    ]


def upgrade() -> None:
    """Makes what is missing."""
    bind = op.get_bind()
    entries = sa.Table("entries", sa.MetaData(), autoload_with=bind)
    if "ix_entries_kind" not in {index.name for index in entries.indexes}:
        some: dict[str, Any] = {"sqlite_where": sa.text(_RARE), "postgresql_where": sa.text(_RARE)}
        op.create_index("ix_entries_kind", "entries", ["segment", "kind", "seq"], **some)
    for table in _tables(entries):
        table.create(bind, checkfirst=True)
        for index in table.indexes:  # those of a table that was there already
            index.create(bind, checkfirst=True)
    inspector = sa.inspect(bind)
    searched = bind.dialect.name == "sqlite" and inspector.has_table("context_search")
    if not searched and "ix_context_words_text" not in _indexes(bind):
        for statement in _SEARCH[bind.dialect.name]:
            op.execute(statement)


def _indexes(bind: sa.Connection) -> set[str]:
    """Names the indexes of words, those of expressions included, of which SQLAlchemy would warn."""
    if bind.dialect.name == "postgresql":
        found = bind.execute(sa.text("SELECT indexname FROM pg_indexes WHERE tablename = 'context_words'"))
        return {name for (name,) in found}
    return {str(index["name"]) for index in sa.inspect(bind).get_indexes("context_words")}
