"""What the store needs of one kind of database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from sqlalchemy.engine import Connection, Engine

#: What an error of a driver means for the transaction that met it.
#: ``again``: it was rolled back, and the same work may succeed now. ``lost``: the connection is gone.
#: ``full``: no room on the database's disk. ``other``: none of these.
Failure = Literal["again", "lost", "full", "other"]


class DatabaseDialect(Protocol):
    """One kind of database behind its driver."""

    #: Whether writers of one process should queue for a lock here, since the database makes them poll.
    one_writer: bool
    #: A condition on `context_words` that holds where its words are what `:wanted`, as `words_query` makes it, says.
    matching: str

    def connect_arguments(self, timeout_s: float) -> dict[str, Any]:
        """Returns what to give the driver's `connect`, besides what the URL says."""

    def prepare(self, connection: Any) -> None:
        """Sets a new connection of the driver up."""

    def begin(self, connection: Any, write: bool) -> None:
        """Starts a transaction, where the driver does not do so by itself."""

    def migrating(self, engine: Engine, timeout_s: float) -> AbstractContextManager[Connection]:
        """Connects, and keeps every other process from migrating the same database meanwhile."""

    def classify(self, error: Exception) -> Failure:
        """Says what one of the driver's errors means."""

    def remedy(self, error: Exception) -> str:
        """Says what to do about it, as one sentence."""

    def words_query(self, words: Sequence[str], *, every: bool) -> str:
        """Writes what `matching` looks for.

        Args:
            words: In the form that `kibo.context.words` gives them: letters of ASCII and digits.
            every: Whether all must be there, or any.
        """
