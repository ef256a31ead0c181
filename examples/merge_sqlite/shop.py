"""The box: a shop's orders in an SQLite database in the workspace."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from kibo import Box, action

DATABASE = Path("/work/shop.db")

SCHEMA = """
CREATE TABLE goods (name TEXT PRIMARY KEY, cents INTEGER NOT NULL, stock INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE orders (
    number TEXT PRIMARY KEY,  -- chosen by whoever orders: two branches never choose the same
    good TEXT NOT NULL REFERENCES goods (name),
    amount INTEGER NOT NULL CHECK (amount > 0),
    state TEXT NOT NULL DEFAULT 'open'
);
CREATE INDEX orders_by_good ON orders (good);
INSERT INTO goods VALUES ('latte', 350, 10), ('mocha', 400, 10);
INSERT INTO orders (number, good, amount) VALUES ('mon-1', 'latte', 1);
"""


class Shop(Box):
    """Takes orders for coffee."""

    @action
    def order(self, number: str, good: str, amount: int) -> None:
        """Take an order.

        Args:
            number: What to call it; no two orders may have the same.
            good: What is ordered.
            amount: How many.
        """
        with database() as link:
            link.execute("INSERT INTO orders (number, good, amount) VALUES (?, ?, ?)", (number, good, amount))

    @action
    def set_price(self, good: str, cents: int) -> None:
        """Change the price of a good."""
        with database() as link:
            link.execute("UPDATE goods SET cents = ? WHERE name = ?", (cents, good))

    @action
    def set_stock(self, good: str, stock: int) -> None:
        """Change how many of a good there are."""
        with database() as link:
            link.execute("UPDATE goods SET stock = ? WHERE name = ?", (stock, good))

    @action(effect="read")
    def orders(self) -> list[str]:
        """Return the orders' numbers."""
        with database() as link:
            return [number for (number,) in link.execute("SELECT number FROM orders ORDER BY number")]

    @action(effect="read")
    def goods(self) -> dict[str, list[int]]:
        """Return price and stock of each good."""
        with database() as link:
            return {name: [cents, stock] for name, cents, stock in link.execute("SELECT * FROM goods")}


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Opens the database for one transaction, and closes it: what is closed has no log beside it."""
    with closing(sqlite3.connect(DATABASE)) as link, link:
        link.execute("PRAGMA foreign_keys=ON")
        yield link


def make_database(path: Path) -> Path:
    """Makes the database with two goods and one order, on the host."""
    with closing(sqlite3.connect(path)) as link:
        link.executescript(SCHEMA)
    return path
