"""Runs benchmarks in this process, as its user, and prints each figure as a line of JSON."""

from __future__ import annotations

import importlib
import json
import sys
import traceback

from benchmarks.figures import missing
from benchmarks.scale import Scale

#: In the order in which they run.
BENCHES = (
    "history",
    "context",
    "branches",
    "workspaces",
    "large",
    "search",
    "spawn",
    "forks",
    "commands",
    "throughput",
    "idle",
    "transfer",
    "starting",
    "gateway",
    "sessions",
    "hub",
    "recordings",
    "schedule",
    "runs",
)


def main() -> int:
    """Runs the benchmarks that are named after the scale. Returns 1 if one of them failed."""
    scale = Scale(float(sys.argv[1]))
    failed = 0
    for name in sys.argv[2:]:
        bench = importlib.import_module(f"benchmarks.{name}")
        try:
            for figure in bench.run(scale):
                say(name, bench.TITLE, figure.as_dict())
        except Exception as error:  # noqa: BLE001 - the others are still worth running; the whole run fails
            traceback.print_exc()
            say(name, bench.TITLE, missing("failed", f"{type(error).__name__}: {error}").as_dict())
            failed = 1
    return failed


def say(bench: str, title: str, figure: dict[str, object]) -> None:
    """Tells one figure."""
    print(json.dumps({"bench": bench, "title": title, "figure": figure}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
