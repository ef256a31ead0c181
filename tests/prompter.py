"""A process that renders prompts, as one does that wakes an agent.

Reads a line of JSON: the database, the branch, the budget, the format and what becomes of entries that are too large.
Answers with the prompt's bytes as text, and its generation; or with nothing and the code of the error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contexts import context
from kibo.branch.history import History
from kibo.model.errors import KiboError
from kibo.store.database import Store

Ask = Callable[[str, str, int, str, str], list[str]]


@contextmanager
def prompter() -> Iterator[Ask]:
    """Starts one, whose hashes and whose locale are others than this process's; gives what asks it."""
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONHASHSEED": "1",
        "LC_ALL": "C",
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, __file__], env=variables, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(url: str, branch: str, budget: int, format: str, oversized: str) -> list[str]:
            print(json.dumps([url, branch, budget, format, oversized]), file=process.stdin, flush=True)
            answer: list[str] = json.loads(process.stdout.readline())
            return answer

        yield ask
        process.stdin.close()
        assert process.wait(20) == 0


def main() -> None:
    stores: dict[str, Store] = {}
    for line in sys.stdin:
        url, branch, budget, format, oversized = json.loads(line)
        if url not in stores:
            for store in stores.values():
                store.close()
            stores = {url: Store.open(url)}
        try:
            made = context(History(stores[url]), branch).prompt(budget, format=format, oversized=oversized)
            answer = [made.rendered.decode(), made.generation]
        except KiboError as error:
            answer = ["", error.code]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
