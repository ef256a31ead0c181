"""Two teams write a program, each in a branch of its own; of the one that loses nothing is left in `main`.

Run it: ``python -m examples.team.demo``. No model and no network: see `script`.
"""

from __future__ import annotations

import kibo
from examples.team.boxes import Planner, Reviewer, Worker
from kibo.branch.branch import Branch

WORKERS = ["ada", "bob"]


def work(branch: Branch, manner: str) -> list[str]:
    """Has a team do its work in a branch. Returns what the reviewer found wrong."""
    planner, reviewer = branch["planner"], branch["reviewer"]
    parts = planner.plan(manner, WORKERS)
    given = {
        name: planner.delegate(branch[name], "write", part, manner=manner) for name, part in parts.items()
    }
    for name, task in given.items():
        for event in task.events():
            if event.kind == "progress":
                print(f"{branch.name:8} {name}: {event.value}")
    found: list[str] = planner.delegate(reviewer, "review").result(timeout_s=60)
    branch.board.post({"manner": manner, "wrong": found}, author="reviewer")
    branch.context.remember(f"the {manner} manner leaves {len(found)} of 4 checks open")
    print(f"{branch.name:8} reviewer: {len(found)} wrong", *found, sep="\n           ")
    return found


def traces(branch: Branch, manner: str) -> dict[str, list[str]]:
    """Lists what a branch has of a manner: files, in name or content, messages and memories."""
    shared = branch.shared("work")
    files = {entry.name: shared.read(entry.name).decode() for entry in shared.list() if entry.kind == "file"}
    messages = [str(message.body) for message in branch.mail.sent()]
    memories = [memory.text for memory in branch.context.memories()]
    return {
        "files": sorted(name for name, text in files.items() if manner in name + text),
        "messages": [text for text in messages if manner in text],
        "memories": [text for text in memories if manner in text],
    }


def main() -> None:
    """Runs it, and shows what came of it."""
    with kibo.branch(goal="durations as text and back") as main:
        main.spawn(Planner(), name="planner", shared=["work"])
        for name in WORKERS:
            main.spawn(Worker(), name=name, shared=["work"])
        main.spawn(Reviewer(), name="reviewer", shared=["work"])

        teams = dict(zip(["careful", "hasty"], main.fork(2, names=["careful", "hasty"]), strict=True))
        wrong = {manner: len(work(branch, manner)) for manner, branch in teams.items()}
        winner, loser = sorted(wrong, key=lambda manner: wrong[manner])
        lost = traces(teams[loser], loser)
        teams[winner].commit()

        print(f"{winner} won; main has its files:", *(entry.name for entry in main.shared("work").list()))
        print(
            "on the board:",
            *(f"{each.body['manner']}: {len(each.body['wrong'])} wrong" for each in main.board.read()),
        )
        left = traces(main, loser)
        for kind, there in lost.items():
            print(f"of {loser}'s {len(there)} {kind}, {len(left[kind])} are in main")
            if not there or left[kind]:
                raise SystemExit(f"the proof fails: {there} before, {left[kind]} left")
        print("the workers go on:", main["ada"].exec("ls /shared/work").stdout.split())


if __name__ == "__main__":
    main()
