"""Agents of different character work on one task at the same time, each in a branch; the best result is applied.

`python -m examples.agent.demo` talks to the scripted endpoint; with `--url` and `--model` to a real one (its key in
``OPENAI_API_KEY``). Instead of one agent that dirties one directory, and another that starts in the mess.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kibo
from examples.agent.chat import Chat
from examples.agent.loop import work
from examples.agent.part import CHARACTERS, SCRIPT
from examples.agent.scripted import serving
from examples.fix_tests.coder import Coder
from examples.fix_tests.repository import make_repository
from kibo.cli.tree_view import TreeView

TASK = "The tests in tests/ fail. Mend the package in prices/ so that all of them pass; leave the tests as they are."


def explored(coder: Any, chat: Chat, budget: kibo.Budget, progress: Any = None) -> Any:
    """Lets every character try, and commits the world in which the fewest tests fail."""

    def agent(system: str) -> Any:
        return lambda box: work(box, chat, TASK, system=system, budget=budget)

    return kibo.explore(
        coder,
        [(name, agent(system)) for name, system in CHARACTERS.items()],
        # What an agent says of itself is not asked: its world is.
        policy=kibo.BestOf(lambda box: -box.failures()),
        budget=budget,
        workers=len(CHARACTERS),
        progress=progress,
    )


def main() -> int:
    """Runs the example; returns the program's exit status."""
    parser = argparse.ArgumentParser(description="Agents explore alternatives in branches.")
    parser.add_argument("--url", help="an endpoint's base URL, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default="scripted", help="the model's name there")
    parser.add_argument("--tokens", type=int, default=200_000, help="what all agents together may use")
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.url or stack.enter_context(serving(SCRIPT))
        place = stack.enter_context(tempfile.TemporaryDirectory())
        repository = make_repository(Path(place) / "prices")
        main_branch = stack.enter_context(kibo.branch(goal="make the tests pass"))
        view = stack.enter_context(TreeView())
        coder = main_branch.spawn(Coder(), workspace=repository)
        budget = kibo.Budget(seconds=600, tokens=options.tokens)
        found = explored(coder, Chat(url, options.model), budget, view)
        for attempt in found.attempts:
            said = attempt.error or attempt.value
            print(f"{attempt.name:8} {attempt.state:8} {attempt.cost.tokens:6} tokens  {said}")
        if not found or coder.failures():
            print("nobody made all tests pass; the repository stays as it was")
            return 1
        main_branch.apply()
        print(
            subprocess.run(["git", "diff"], cwd=repository, capture_output=True, text=True, check=True).stdout
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
