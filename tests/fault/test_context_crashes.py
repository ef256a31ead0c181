"""A process is killed at every named point of writing a context: the step has happened entirely or not at all."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contexts import context
from kibo.branch.history import History
from kibo.store import crash
from kibo.store.database import Store

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"

#: Every step with what it writes, and the points that it passes.
STEPS = {
    "remember": (
        "ctx.remember('the till closes at five', source=first)",
        1,
        ["append.before_tail", "append.before_commit"],
    ),
    "pin": ("ctx.pin(first)", 1, ["append.before_tail", "append.before_commit"]),
    "compact": (
        "ctx.compact(lambda entries, before: 'before', keep_tokens=0)",
        1,
        ["context.before_summary", "append.before_tail", "append.before_commit"],
    ),
    "import": (
        "ctx.import_([{'role': 'user', 'content': str(n)} for n in range(50)], 'openai')",
        50,
        ["context.before_import", "append.before_tail", "context.before_commit"],
    ),
    "search": ("ctx.search('word')", 0, ["context.before_indexed"]),
}

PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from contexts import context
from kibo.branch.history import History
from kibo.store.database import Store
ctx = context(History(Store.open({url!r})), {of!r})
first = ctx.entries(1, after=0)[0]
{step}
"""


def test_every_point_of_a_context_is_tried():
    files = (SOURCE / "kibo/context").glob("*.py")
    found = {name for file in files for name in re.findall(r'crash\.point\("([^"]+)"\)', file.read_text())}
    assert found <= {point for _, _, points in STEPS.values() for point in points}


@pytest.mark.parametrize(
    ("name", "point"), [(name, point) for name, (_, _, points) in STEPS.items() for point in points]
)
def test_a_killed_step_has_happened_entirely_or_not_at_all(tmp_path: Path, name: str, point: str):
    step, count, _ = STEPS[name]
    url = f"sqlite:///{tmp_path / 'history.db'}"
    with Store.open(url) as store:
        history = History(store)
        of = history.create().id
        for number in range(5):
            context(history, of).user(f"word {number}")
        before = context(history, of).prompt(1000).rendered

        def run(crash_at: str) -> int:
            program = PROGRAM.format(paths=[str(SOURCE), str(TESTS)], url=url, of=of, step=step)
            return subprocess.run([sys.executable, "-c", program], env={crash.VARIABLE: crash_at}).returncode

        assert run(point) == -signal.SIGKILL
        assert len(context(history, of).entries(1000)) == 5
        assert context(history, of).prompt(1000).rendered == before
        assert len(context(history, of).search("word")) == 5
        assert run("none.such") == 0
        assert len(context(history, of).entries(1000)) == 5 + count
