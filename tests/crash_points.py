"""The named points of the sources, so that no test forgets one."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src/kibo"
HISTORY = re.compile(r'crash\.point\("([^"]+)"\)')
#: Of whole branches: history's own, a transaction each, are called as ``crash.point``.
WHOLE = re.compile(r'(?<!crash\.)point\("([a-z_.]+)"')
#: What takes back an apply or ends one that was cut short, and what undoes calls, have tests of their own.
ELSEWHERE = re.compile(r"apply\.undone|recover\.step|undo\..*")


def history_points() -> list[str]:
    """Those of the store and of history."""
    return sorted(_found(HISTORY, *(SOURCES / "store").rglob("*.py"), *(SOURCES / "branch").glob("*.py")))


def branch_points() -> set[str]:
    """Those that whole branches pass, from a spawn to a collection."""
    found = _found(WHOLE, *(SOURCES / "branch").rglob("*.py"))
    return {name for name in found if not ELSEWHERE.fullmatch(name)}


def apply_points() -> list[str]:
    """Those that an apply passes where nothing goes wrong."""
    files = (SOURCES / "branch/hostdir").glob("*.py")
    lines = [line for path in files for line in re.findall(r"point\((.*)\)", path.read_text())]
    found = {name for line in lines for name in re.findall(r'"(apply\.[a-z.]+)"', line)}
    return sorted(found - {"apply.undone"})


def _found(pattern: re.Pattern[str], *files: Path) -> set[str]:
    return {name for path in files for name in pattern.findall(path.read_text())}
