"""Boxes that are defined in the cells of a notebook run in real boxes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CELLS = [
    """
from dataclasses import dataclass
from kibo import Box, action, use

COINS = {"small": 3, "large": 5}

@dataclass
class Drink:
    size: str
    price: int
""",
    """
class Till(Box):
    '''A till.'''

    @action
    def charge(self, size: str) -> int:
        '''Charge for a size.'''
        return COINS[size]
""",
    """
class Bar(Box):
    '''A bar.'''
    till = use(Till)

    @action
    def serve(self, size: str) -> Drink:
        '''Serve a drink.'''
        return Drink(size, self.till.charge(size))
""",
    "print((Till() + Bar()).spawn().serve('small'))",
    "COINS['small'] = 4",
    "print((Till() + Bar()).spawn().serve('small'))",
]
#: As a notebook's kernel does: each cell in `__main__`, under a name that is no file, while an event loop runs.
KERNEL = """
import asyncio, sys, types

async def run(cells):
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    for number, cell in enumerate(cells):
        code = compile(cell, f"/tmp/ipykernel_1/{number}.py", "exec", dont_inherit=True)
        exec(code, main.__dict__)

asyncio.run(run(%r))
"""


def test_boxes_of_cells_run_and_follow_what_later_cells_change(home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KERNEL % CELLS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Drink(size='small', price=3)\nDrink(size='small', price=4)\n"
    assert done.stderr == ""
