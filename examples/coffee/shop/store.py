"""The shop's data: customers, sessions, prices, baskets, orders and charges, in one SQLite file."""

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS customer (name TEXT PRIMARY KEY, salt BLOB NOT NULL, password BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS session (
  id TEXT PRIMARY KEY, csrf TEXT NOT NULL, uses INTEGER NOT NULL, customer TEXT REFERENCES customer);
CREATE TABLE IF NOT EXISTS coffee (
  kind TEXT PRIMARY KEY, title TEXT NOT NULL, about TEXT NOT NULL, cents INTEGER NOT NULL, place INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS line (
  basket TEXT NOT NULL, kind TEXT NOT NULL REFERENCES coffee, size TEXT NOT NULL, quantity INTEGER NOT NULL,
  PRIMARY KEY (basket, kind, size));
CREATE TABLE IF NOT EXISTS purchase (
  id INTEGER PRIMARY KEY AUTOINCREMENT, customer TEXT NOT NULL REFERENCES customer, note TEXT NOT NULL,
  cents INTEGER NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS purchase_line (
  purchase INTEGER NOT NULL REFERENCES purchase, title TEXT NOT NULL, size TEXT NOT NULL, quantity INTEGER NOT NULL,
  cents INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS charge (
  id INTEGER PRIMARY KEY, purchase INTEGER NOT NULL REFERENCES purchase, cents INTEGER NOT NULL, card TEXT NOT NULL);
"""

COFFEES = [
    ("espresso", "Espresso", "Short, dark, to the point.", 260),
    ("americano", "Americano", "Espresso that takes its time.", 310),
    ("cappuccino", "Cappuccino", "Even parts coffee, milk and foam.", 390),
    ("flat-white", "Flat white", "Two shots under thin velvet.", 410),
    ("latte", "Latte", "Mild, milky, made for mornings.", 420),
    ("oat-latte", "Oat latte", "The same morning, from the field.", 470),
]
SIZE_CENTS = {"small": 0, "medium": 60, "large": 110}


@dataclass(frozen=True)
class Coffee:
    """One entry of the menu; `cents` is the price of the small one."""

    kind: str
    title: str
    about: str
    cents: int


@dataclass(frozen=True)
class Line:
    """One line of a basket or an order; `cents` is the price of all of it."""

    title: str
    size: str
    quantity: int
    cents: int
    kind: str = ""


@dataclass(frozen=True)
class Session:
    """A visitor's session. `customer` is None until the visitor signs in."""

    id: str
    csrf: str
    customer: str | None


@dataclass(frozen=True)
class Order:
    """One order that was paid, with the last four digits of the card that paid for it."""

    id: int
    customer: str
    note: str
    cents: int
    at: datetime
    card: str
    lines: Sequence[Line]


class Store:
    """Reads and writes the shop's database. Not for use by two threads at once.

    Args:
        path: The SQLite file; made with the menu when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(SCHEMA)
        rows = [(*coffee, place) for place, coffee in enumerate(COFFEES)]
        self._db.executemany("INSERT OR IGNORE INTO coffee VALUES (?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Closes the file; what was written stays."""
        self._db.close()

    # -- customers and sessions

    def add_customer(self, name: str, password: str) -> None:
        """Registers a customer, or changes the password of one."""
        salt = secrets.token_bytes(16)
        self._db.execute("REPLACE INTO customer VALUES (?, ?, ?)", (name, salt, _digest(password, salt)))

    def check_password(self, name: str, password: str) -> bool:
        """True when `name` is a customer with this password; as slow for an unknown name as for a known one."""
        row = self._db.execute("SELECT salt, password FROM customer WHERE name = ?", (name,)).fetchone()
        salt, digest = row or (b"-" * 16, b"")
        return hmac.compare_digest(_digest(password, salt), digest)

    def open_session(self, customer: str | None = None) -> Session:
        """Starts a session with a new id and a new CSRF token."""
        session = Session(secrets.token_urlsafe(24), secrets.token_urlsafe(24), customer)
        self._db.execute("INSERT INTO session VALUES (?, ?, 0, ?)", (session.id, session.csrf, customer))
        return session

    def use_session(self, session_id: str, uses: int) -> Session | None:
        """Finds a session and counts a use of it; a signed-in one ends after `uses` of them (0: never)."""
        row = self._db.execute(
            "UPDATE session SET uses = uses + 1 WHERE id = ? RETURNING csrf, customer, uses", (session_id,)
        ).fetchone()
        if row is None:
            return None
        csrf, customer, used = row
        if customer is not None and 0 < uses < used:
            self.end_session(session_id)
            return None
        return Session(session_id, csrf, customer)

    def end_session(self, session_id: str) -> None:
        """Ends a session; one that is not there is fine."""
        self._db.execute("DELETE FROM session WHERE id = ?", (session_id,))

    # -- menu and basket

    def menu(self) -> list[Coffee]:
        """Lists what is sold, in the order of the menu."""
        rows = self._db.execute("SELECT kind, title, about, cents FROM coffee ORDER BY place")
        return [Coffee(*row) for row in rows]

    def raise_prices(self, cents: int) -> None:
        """Puts every price up, for baskets that are already filled as well."""
        self._db.execute("UPDATE coffee SET cents = cents + ?", (cents,))

    def add_line(self, basket: str, kind: str, size: str, quantity: int) -> None:
        """Puts a coffee into a basket.

        Raises:
            KeyError: There is no such coffee or size.
        """
        if size not in SIZE_CENTS or kind not in {coffee.kind for coffee in self.menu()}:
            raise KeyError(f"{size} {kind}")
        self._db.execute(
            "INSERT INTO line VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
            (basket, kind, size, quantity),
        )

    def empty_basket(self, basket: str) -> None:
        """Takes everything out of a basket."""
        self._db.execute("DELETE FROM line WHERE basket = ?", (basket,))

    def basket(self, basket: str) -> list[Line]:
        """Lists a basket at the prices of this moment."""
        rows = self._db.execute(
            "SELECT title, size, quantity, cents, kind FROM line JOIN coffee USING (kind) "
            "WHERE basket = ? ORDER BY place",
            (basket,),
        )
        return [
            Line(title, size, n, n * (cents + SIZE_CENTS[size]), kind) for title, size, n, cents, kind in rows
        ]

    # -- orders

    def place_order(self, customer: str, basket: str, card: str, note: str) -> Order:
        """Charges the card and turns the basket into an order, both or neither.

        Asked twice, it charges twice: as in real shops, not to pay again by mistake is the customer's business.

        Raises:
            ValueError: The basket is empty.
        """
        lines = self.basket(basket)
        if not lines:
            raise ValueError("the basket is empty")
        total = sum(line.cents for line in lines)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            (order,) = self._db.execute(
                "INSERT INTO purchase (customer, note, cents, at) VALUES (?, ?, ?, ?) RETURNING id",
                (customer, note, total, datetime.now(UTC).isoformat(timespec="seconds")),
            ).fetchone()
            self._db.executemany(
                "INSERT INTO purchase_line VALUES (?, ?, ?, ?, ?)",
                [(order, line.title, line.size, line.quantity, line.cents) for line in lines],
            )
            self._db.execute(
                "INSERT INTO charge (purchase, cents, card) VALUES (?, ?, ?)", (order, total, card[-4:])
            )
            self.empty_basket(basket)
        return self.orders(customer)[0]

    def orders(self, customer: str | None = None) -> list[Order]:
        """Lists the orders, of one customer or of all, newest first."""
        rows = self._db.execute(
            "SELECT purchase.id, customer, note, purchase.cents, at, card FROM purchase "
            "JOIN charge ON charge.purchase = purchase.id WHERE ? IN (customer, '') ORDER BY purchase.id DESC",
            (customer or "",),
        ).fetchall()
        return [
            Order(order, who, note, cents, datetime.fromisoformat(at), card, self._order_lines(order))
            for order, who, note, cents, at, card in rows
        ]

    def _order_lines(self, order: int) -> list[Line]:
        rows = self._db.execute(
            "SELECT title, size, quantity, cents FROM purchase_line WHERE purchase = ? ORDER BY rowid",
            (order,),
        )
        return [Line(*row) for row in rows]


def _digest(password: str, salt: bytes) -> bytes:
    # Parameters that take about 30 ms: enough for a shop that sells one coffee.
    return hashlib.scrypt(password.encode(), salt=salt, n=2**13, r=8, p=1)
