"""What an agent knows, on the command line: of a branch that another process left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]

PROGRAM = """
import kibo
with kibo.branch("answer", name="talk") as main:
    ctx = main.context
    ctx.system("Be brief.")
    ctx.user("Where is order 7?\\x1b[31m")
    ctx.assistant("", tool_calls=[{"id": "c", "name": "look_up", "arguments": {"order": 7}}])
    ctx.tool_result("c", "late")
    print(main.snapshot("asked").id)
    ctx.assistant("It is late.")
"""


@pytest.fixture
def sealed(cli: Cli) -> str:  # noqa: F811
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=cli.variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_context_is_listed_searched_prompted_and_exported(cli: Cli, sealed: str) -> None:  # noqa: F811
    listed = cli("context", "talk").stdout
    assert "\x1b" not in listed
    assert [line.split()[2] for line in listed.splitlines()[1:]] == [
        "system",
        "user",
        "assistant",
        "tool_result",
        "assistant",
    ]
    entries: list[dict[str, Any]] = cli.json("context", sealed)
    assert [entry["kind"] for entry in entries] == ["system", "user", "assistant", "tool_result"]
    assert [entry["text"] for entry in cli.json("context", "talk", "--search", "LATE")] == [
        "late",
        "It is late.",
    ]
    made = cli.json("context", "asked", "--prompt", "--budget", "1000", "--format", "openai")
    assert [message["role"] for message in made["messages"]] == ["system", "user", "assistant", "tool"]
    told = cli("context", "talk", "--prompt")
    assert "look_up" in told.stdout
    assert "of 8,000 tokens by kibo-estimate-2" in told.stderr
    assert json.loads(cli("context", "talk", "--export", "openai").stdout)[-1]["content"] == "It is late."
    assert len(cli("context", "talk", "--export", "jsonl").stdout.splitlines()) == 6
    assert cli.json("context", "nobody", status=66)["error"]["code"] == "snapshot.unknown"
    assert (
        cli.json("context", "talk", "--prompt", "--search", "x", status=65)["error"]["code"]
        == "input.invalid"
    )


def test_the_example_keeps_what_its_agent_knows(cli: Cli) -> None:  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-m", "examples.remember.demo"],
        capture_output=True,
        text=True,
        env=cli.variables,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "begin with the same bytes: True" in done.stdout
    assert "order 7 left the warehouse on Monday" in done.stdout
    assert "customers never mind waiting" not in done.stdout
    assert "the question is pinned: True" in done.stdout
