"""Two branches of a shop take orders at the same time; the merge keeps both. What cannot be joined is shown row by row.

`python -m examples.merge_sqlite.demo` makes the shop in a temporary directory.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import kibo
from examples.merge_sqlite.resolver import DatabaseMerger
from examples.merge_sqlite.shop import Shop, make_database


def main() -> int:
    """Runs the example; returns the program's exit status."""
    with tempfile.TemporaryDirectory() as place:
        path = make_database(Path(place) / "shop.db")
        return sell(path)


def sell(path: Path) -> int:
    """Sells in two branches, merges them, and applies what came of it to the directory of the database."""
    with kibo.branch(goal="sell coffee") as main_branch:
        shop = main_branch.spawn(Shop(), workspace=path.parent)
        print(f"begun      {shop.orders()}", file=sys.stderr)
        ada, bob, eve = main_branch.fork(3, names=["ada", "bob", "eve"])
        ada[shop].order("ada-1", "latte", 2)
        ada[shop].set_price("latte", 360)
        bob[shop].order("bob-1", "mocha", 1)
        bob[shop].order("bob-2", "latte", 1)
        bob[shop].set_stock("latte", 9)
        eve[shop].set_price("latte", 1)
        ada.commit()
        merger = DatabaseMerger()
        bob.merge(merger)
        print(f"merged     {', '.join(merger.merged)}: {shop.orders()}")
        print(f"goods      {shop.goods()}")
        try:
            eve.merge(merger)
        except kibo.KiboError as error:
            print(f"refused    {error.message}")
            for kept in merger.kept.values():
                for clash in kept.clashes:
                    print(f"           {clash}")
        main_branch.apply()
    with closing(sqlite3.connect(path)) as link:
        for order in link.execute("SELECT number, good, amount FROM orders ORDER BY number"):
            print("applied   ", *order)
    return 0


if __name__ == "__main__":
    sys.exit(main())
