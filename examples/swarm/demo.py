"""Two hundred explorers look for twenty programs: runs with forks on failure, one budget, a live view and a report.

Run it: ``python -m examples.swarm.demo``. No model and no network.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

import kibo
from examples.swarm.boxes import Explorer, Found, Lead
from examples.swarm.programs import perform
from examples.swarm.tasks import KEPT, SHOWN
from kibo.schedule.handle import Run

#: A first look that fails goes on as two runs that look otherwise; what they do not find is given up.
POLICY = kibo.Policy(
    timeout_s=60, on_failure=kibo.Fork(n=2, vary=("wider", "deeper"), depth=1) | kibo.Abandon()
)


def submit(explorers: int, tasks: Sequence[str], budget: kibo.Budget) -> tuple[Run, dict[str, list[Run]]]:
    """Submits all explorers as parts of one run. Returns that, and them by task."""
    lead = kibo.submit(Lead(), "brief", budget=budget, tenant="swarm", priority=100, name="the swarm")
    found: dict[str, list[Run]] = {task: [] for task in tasks}
    for number in range(explorers):
        task = tasks[number % len(tasks)]
        run = kibo.submit(
            Explorer(), "explore", task, number,
            policy=POLICY, parent=lead, tenant="swarm", name=f"{task}, {number}",
        )  # fmt: skip
        found[task].append(run)
    return lead, found


def view(runs: dict[str, list[Run]]) -> tuple[Table, bool]:
    """Draws how all stands. Returns it, and whether all have ended."""
    table = Table("task", "waiting", "at work", "forked", "found", "given up")
    over = True
    for task, own in runs.items():
        states = Counter(run.status for run in own)
        ended = sum(states[each] for each in ("done", "failed", "abandoned", "cancelled"))
        over = over and ended == len(own)
        shown = (states["queued"], len(own) - ended - states["queued"] - states["forked"], states["forked"])
        table.add_row(task, *(str(each) for each in (*shown, states["done"], ended - states["done"])))
    return table, over


def watch(runs: dict[str, list[Run]]) -> None:
    """Shows how all stands, until all have ended."""
    table, over = view(runs)
    with Live(table, console=Console(stderr=True), auto_refresh=False) as live:
        while not over:
            time.sleep(0.5)
            table, over = view(runs)
            live.update(table, refresh=True)


def report(runs: dict[str, list[Run]]) -> None:
    """Prints what most have found for each task, and whether it holds for names that no explorer was shown."""
    solved = holding = 0
    for task, own in runs.items():
        found: list[Found] = [run.result() for run in own if run.status == "done"]
        if not found:
            print(f"{task:16} not found by {len(own)}")
            continue
        times = Counter(tuple(each.program) for each in found)
        best = min(times, key=lambda program: (-times[program], len(program), program))
        holds = all(perform(best, before) == after for before, after in KEPT[task])
        solved, holding = solved + 1, holding + holds
        print(f"{task:16} {', '.join(best)}{'' if holds else '  (does not hold)'}")
        if any(each.notes for each in found):
            raise SystemExit(f"the proof fails: an explorer saw what another had left: {found}")
    print(f"{solved} of {len(runs)} found, {holding} hold for names that nobody was shown")


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--explorers", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=len(SHOWN))
    parser.add_argument("--branches", type=int, default=400, help="how many forks all have together")
    asked = parser.parse_args()
    began = time.monotonic()
    budget = kibo.Budget(seconds=600, branches=asked.branches)
    lead, runs = submit(asked.explorers, list(SHOWN)[: asked.tasks], budget)
    print(f"{asked.explorers} explorers submitted in {time.monotonic() - began:.2f} s", file=sys.stderr)
    watch(runs)
    report(runs)
    parts = [run for run in kibo.runs(tenant="swarm", most=10_000) if run.record().tree == lead.id]
    print(f"{asked.explorers} explorers, and {len(parts) - 1 - asked.explorers} forks of those that failed")
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
