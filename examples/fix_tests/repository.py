"""Makes the repository that the example mends: a small Python package, in git, of which four tests fail.

`python -m examples.fix_tests.repository DIRECTORY` makes it anywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILES = {
    "prices/__init__.py": '"""Prices: read, added up, and written."""\n',
    "prices/money.py": '''"""Amounts of money, in cents."""


def read(text: str) -> int:
    """Reads an amount such as ``12.50`` or ``1,200``."""
    return int(float(text) * 100)


def write(cents: int) -> str:
    """Writes an amount with two decimals."""
    return f"{cents // 100}.{cents % 100}"
''',
    "prices/basket.py": '''"""A basket of goods."""

from prices.money import read


def total(lines: list[tuple[str, int]]) -> int:
    """Adds up prices by quantities, in cents."""
    return sum(read(price) * quantity for price, quantity in lines[1:])


def discounted(cents: int, percent: int) -> int:
    """Takes so many percent off, rounded to the nearest cent."""
    return cents - cents * percent // 100
''',
    "tests/test_money.py": """import unittest

from prices.money import read, write


class Money(unittest.TestCase):
    def test_reads_plain_amounts(self):
        self.assertEqual(read("12.50"), 1250)

    def test_reads_amounts_that_floats_miss(self):
        self.assertEqual(read("19.99"), 1999)

    def test_reads_thousands(self):
        self.assertEqual(read("1,200"), 120000)

    def test_writes_two_decimals(self):
        self.assertEqual(write(1205), "12.05")
""",
    "tests/test_basket.py": """import unittest

from prices.basket import discounted, total


class Basket(unittest.TestCase):
    def test_adds_up_every_line(self):
        self.assertEqual(total([("1.50", 2), ("0.25", 4)]), 400)

    def test_discounts_nothing(self):
        self.assertEqual(discounted(1000, 0), 1000)

    def test_discounts_a_tenth(self):
        self.assertEqual(discounted(1000, 10), 900)
""",
    "tests/__init__.py": "",
    ".gitignore": "__pycache__/\n",
}

#: The tests that fail in the repository as it is made.
FAILING = 4

_AUTHOR = {
    "GIT_AUTHOR_NAME": "Example",
    "GIT_AUTHOR_EMAIL": "example@example.org",
    "GIT_COMMITTER_NAME": "Example",
    "GIT_COMMITTER_EMAIL": "example@example.org",
    # Not the user's own settings: signing, hooks and templates are theirs.
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def make_repository(place: Path) -> Path:
    """Makes the repository with one commit and returns its directory."""
    for name, text in FILES.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["commit", "-q", "-m", "prices, with four bugs"],
    ):
        subprocess.run(["git", *command], cwd=place, env=os.environ | _AUTHOR, check=True)
    return place


if __name__ == "__main__":
    print(make_repository(Path(sys.argv[1])))
