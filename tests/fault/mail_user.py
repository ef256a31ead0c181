"""A program that sends and handles mail: arguments are the state directory, the branch, and how many to send.

What it handles it writes to a file first, a line each, as a handler that changes something outside.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from kibo.branch.history import History
from kibo.hub.post import Post
from kibo.store.database import Store
from letters import room


def main(home: Path, branch: str, count: int) -> None:
    with (
        Store.open(f"sqlite:///{home}/history.db") as store,
        open(home / "handled", "ab", buffering=0) as out,
    ):
        history = History(store)

        def handle(message: object) -> None:
            out.write(f"{message.id} {message.body}\n".encode())  # type: ignore[attr-defined]

        post = Post(history.log, branch)  # all is sent before any is handled: the appends are counted
        for number in range(count):
            post.send("a", [("b", "")], number, key=f"n{number}")
        place = room(history, branch, {"b": handle})
        place.look()
        deadline = time.monotonic() + 20
        while place.post.addresses():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        place.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    os._exit(0)
