"""The shop of the coffee demo, run as a program for a test."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Shop:
    """A running shop: its address and its database."""

    def __init__(self, url: str, database: Path) -> None:
        self.url = url
        self.database = database

    def count(self, table: str) -> int:
        ((rows,),) = self.ask(f"SELECT count(*) FROM {table}")
        return int(rows)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute(query).fetchall()


@contextmanager
def running_shop(folder: Path, *switches: str) -> Iterator[Shop]:
    database = folder / "shop.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.coffee.shop", "--db", str(database), "--until-eof", *switches],
        cwd=ROOT,
        env={**os.environ, "SHOP_PASSWORD": "beans"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield Shop(process.stdout.readline().strip(), database)
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdin.close()
        process.stdout.close()
