"""Three ways to mend the repository. Each edits real files in a box of its own; only one mends them all.

A strategy is a plain function that drives an instance of `Coder`. In an agent's place a model would write these edits.
"""

from __future__ import annotations

from typing import Any

import kibo

READ = """    whole, _, part = text.replace(",", "").partition(".")
    return int(whole) * 100 + int(part.ljust(2, "0")[:2] or 0)
"""


def careful(coder: Any) -> bool:
    """Reads each failure and mends its cause."""
    steps = [
        ("prices/money.py", "    return int(float(text) * 100)\n", READ),
        ("prices/money.py", "{cents % 100}", "{cents % 100:02}"),
        ("prices/basket.py", "lines[1:]", "lines"),
    ]
    for path, old, new in steps:
        coder.edit(path, old, new)
        kibo.note(f"{path}: {coder.failures()} tests fail")
    return bool(coder.failures() == 0)


def hasty(coder: Any) -> bool:
    """Rounds here, strips there, and breaks what worked."""
    coder.edit("prices/money.py", "int(float(text) * 100)", 'int(text.replace(".", "").replace(",", ""))')
    kibo.note(f"read() is simpler now: {coder.failures()} tests fail")
    coder.edit("prices/basket.py", "cents - cents * percent // 100", "cents * percent // 100")
    left = coder.failures()
    kibo.note(f"discounts are simpler too: {left} tests fail")
    return bool(left == 0)


def stubborn(coder: Any) -> bool:
    """Tries the same edit for ever: it is there to be stopped."""
    tries = 0
    while coder.failures():
        tries += 1
        coder.edit("prices/basket.py", "lines[1:]", "lines[0:]")
        coder.edit("prices/basket.py", "lines[0:]", "lines[1:]")
        kibo.note(f"once more, for the {tries}th time")
    return True


STRATEGIES = [careful, hasty, stubborn]
