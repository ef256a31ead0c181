"""What the README shows runs as it stands there, from its first block to its last."""

import os
import re
import subprocess
import sys
from codeop import compile_command
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text())


def run(page: str, place: Path) -> str:
    program = place / "example.py"
    program.write_text("\n\n".join(blocks(page)))
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_readmes_examples_run_as_they_are_written(tmp_path: Path) -> None:
    lines = run("README.md", tmp_path).splitlines()
    told = dict(line.split(":", 1) for line in lines if ": " in line and " - " not in line)
    assert 3 <= int(told["sum"]) <= 60
    assert told["in the box"].strip() == "['numbers.txt', 'box']"
    assert told["changed"].strip() == "['/work/numbers.txt']"
    assert 3 <= int(told["another"]) <= 60
    assert told["tools"].strip() == "['roll', 'play']"
    assert told["applied"].strip() == "['/work/numbers.txt']"
    assert told["kept"].strip() == "True"
    refused = next(line for line in lines if line.startswith("action.arguments - "))
    assert "'rounds' must be int, got str" in refused


@pytest.mark.parametrize("number", range(len(blocks("README.md"))))
def test_each_of_the_readmes_examples_can_be_pasted_into_a_prompt(number: int) -> None:
    lines: list[str] = []
    for line in [*blocks("README.md")[number].splitlines(), ""]:
        lines.append(line)
        # As the prompt of Python 3.12 and older does: an empty line ends a block, and nothing else does.
        if compile_command("\n".join(lines)) is not None:
            lines.clear()
    assert lines == []


def test_the_tutorials_examples_run_as_they_are_written(tmp_path: Path) -> None:
    lines = run("docs/tutorial.md", tmp_path).splitlines()
    assert lines[-1] == "the end"


def test_every_python_block_of_both_pages_is_found() -> None:
    for page in ("README.md", "docs/tutorial.md"):
        assert len(blocks(page)) == (ROOT / page).read_text().count("```python") > 1
