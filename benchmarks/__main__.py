"""``python -m benchmarks``: every promise that can be measured today, on this machine, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.users import runners
from benchmarks.worker import BENCHES


def main() -> int:
    """Runs what was asked for. Returns 1 where a benchmark failed or, with ``--strict``, a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "bench", nargs="*", help=f"which to run: {', '.join(BENCHES)}; all of them by default"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures there as JSON too; - writes them alone, here"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full counts, for a quick look: 0.1"
    )
    parser.add_argument("--user", choices=("both", "root", "ordinary"), default="both", help="as whom to run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a promise is not kept")
    options = parser.parse_args()
    unknown = set(options.bench) - set(BENCHES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    console = Console(stderr=options.json == "-", width=None if sys.stdout.isatty() else 150)
    machine = describe_machine()
    console.print("  ".join(f"[dim]{name}[/] {value}" for name, value in machine.items()))
    found: list[dict[str, Any]] = []
    failed = False
    with runners(options.user) as users:
        for runner in users:
            try:
                for line in runner.start(options.bench or list(BENCHES), options.scale):
                    found.append({"user": runner.user} | line)
                    show_progress(console, found[-1])
            except subprocess.CalledProcessError:
                failed = True
    for user in dict.fromkeys(entry["user"] for entry in found):
        console.print(table(user, [entry for entry in found if entry["user"] == user]))
    if options.json:
        text = json.dumps({"machine": machine, "scale": options.scale, "figures": found}, indent=1)
        if options.json == "-":
            print(text)
        else:
            with open(options.json, "w") as file:
                file.write(text + "\n")
    broken = [entry for entry in found if entry["figure"]["kept"] is False]
    return int(failed or (options.strict and bool(broken)))


def describe_machine() -> dict[str, str]:
    """Tells what the figures depend on; a busy machine's are pessimistic, and its load says so."""
    return {
        "kernel": platform.release().partition("-")[0],
        "processors": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def show_progress(console: Console, entry: dict[str, Any]) -> None:
    figure = entry["figure"]
    text = f"{figure['name'].strip()} {written(figure, 'value')} {figure['unit']}"
    console.print(f"[dim]{entry['user']}: {entry['bench']}: {text}[/]")


def table(user: str, entries: list[dict[str, Any]]) -> Table:
    """Lays one user's figures out."""
    made = Table(title=f"as {user}", title_justify="left")
    for heading in ("what", "min", "median", "p99", "unit", "promised", "", "note"):
        made.add_column(
            heading, justify="right" if heading in ("min", "median", "p99", "promised") else "left"
        )
    title = ""
    for entry in entries:
        if entry["title"] != title:
            title = entry["title"]
            made.add_section()
            made.add_row(f"[bold]{title}[/]")
        figure = entry["figure"]
        promised = "/".join(
            f"{figure[name]:g}" for name in ("target", "target_p99") if figure[name] is not None
        )
        verdict = {None: "", True: "[green]kept[/]", False: "[red]not kept[/]"}[figure["kept"]]
        values = [written(figure, name) for name in ("low", "value", "p99")]
        made.add_row(figure["name"], *values, figure["unit"], promised, verdict, figure["note"])
    return made


def written(figure: dict[str, Any], name: str) -> str:
    """Writes a number with as many digits as mean something."""
    value = figure[name]
    if value is None:
        return "n/a" if name == "value" else ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
