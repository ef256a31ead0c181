"""Spawns, forks, commits and destroys boxes for minutes, then counts what is left: ``python -m benchmarks.soak 5``.

What must not grow: this process's descriptors and threads, the warden's memory and descriptors, processes, mounts,
control groups, and files below the state directory. What must be gone at the end: everything but the layers of
environments and what the history of the branches names, and of that everything once it is collected.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from rich.console import Console

import kibo
from benchmarks.boxes import ECHO
from benchmarks.idle import guest_pids, own_pid
from kibo.wiring import runtime
from kibo.wiring.records import Records

THREADS = 2
WARM_S = 5.0
#: What the warden may gain after its first seconds: its allocator's arenas, and control groups, which are kept for use
#: again and are as many as there were boxes at once. A leak of one a box would be thousands.
SLACK = {"warden_bytes": 2 << 20, "warden_descriptors": 32, "descriptors": 4, "threads": 1}
#: Branches of which each thread's tree consists before it begins another.
TREE = 50


def main() -> int:
    """Soaks for the given number of minutes, 2 by default. Returns 1 if something was left or grew."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    console = Console()
    failures: list[BaseException] = []
    soak(WARM_S, failures)
    before = measure()
    console.print(f"before: {before}")
    count = 0
    until = time.monotonic() + minutes * 60
    while time.monotonic() < until and not failures:
        count += soak(min(10.0, until - time.monotonic()), failures)
        console.print(f"[dim]{count} boxes, the warden {resident(warden_pid()) >> 10:,} KiB[/]")
    after = measure()
    console.print(f"after {count} boxes: {after}")
    left = [f"{type(error).__name__}: {error}" for error in failures]
    left += [
        f"{name} grew from {before[name]} to {after[name]}"
        for name in before
        if after[name] > before[name] + SLACK.get(name, 0)
    ]
    runtime().close()
    records = Records(runtime().home)
    records.standing().collect(0.0, 0.0)
    records.close()
    left += [f"layer {path.name} is left" for path in (runtime().home / "deltas").iterdir()]
    left += [f"process {pid} is left" for pid in guest_pids()]
    run = runtime().home / "run"
    own = (
        [entry.name for entry in run.iterdir() if entry.name.startswith(f"{os.getpid()}-")]
        if run.exists()
        else []
    )
    left += [f"{run / name} is left" for name in own]
    for line in left:
        console.print(f"[red]{line}[/]")
    console.print("nothing is left" if not left else f"{len(left)} failures")
    return int(bool(left) or not count)


def soak(seconds: float, failures: list[BaseException]) -> int:
    """Lets every thread work for a while. Returns how many boxes they made; adds what went wrong."""
    counts = [0] * THREADS
    until = time.monotonic() + seconds

    def run(index: int) -> None:
        try:
            while time.monotonic() < until:
                work(index, until, counts)
                branch_out(index, until, counts)
        except BaseException as error:  # noqa: BLE001 - told at the end, after what is left has been counted
            failures.append(error)

    workers = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts)


def work(index: int, until: float, counts: list[int]) -> None:
    """Makes boxes of several lives: used, unused, with files, with a command, forked, left to the collector."""
    for number in range(TREE):
        if time.monotonic() > until:
            return
        box = ECHO.spawn()
        match number % 6:
            case 0:
                assert box.echo("hello") == "hello"
            case 1:
                box.files.write("file", b"x" * 4096)
            case 2:
                assert box.exec(["true"]).returncode == 0
            case 3:
                with box.popen(["sleep", "100"]):
                    box.echo("while it runs")
            case 4:
                for fork in box.fork(2):
                    assert fork.echo("forked") == "forked"
        if number % 2:
            box.destroy()
        del box
        counts[index] += 1


def branch_out(index: int, until: float, counts: list[int]) -> None:
    """Makes a tree of branches that are committed, merged, aborted, or end with it; live, and cold under a command."""
    with kibo.branch(f"soak {index}") as main:
        box = main.spawn(ECHO)
        for number in range(TREE):
            if time.monotonic() > until:
                break
            one, two = main.fork(2)
            one[box].files.write("one", str(number).encode())
            two[box].files.write("two", str(number).encode())
            match number % 4:
                case 0:
                    one.commit()
                case 1:
                    one.commit()
                    two.merge()
                case 2:
                    one.abort()
                case 3:
                    with two[box].popen(["sleep", "100"]):
                        (cold,) = two.fork()
                        assert cold[box].files.read("two") == str(number).encode()
                        cold.abort()
                    two.commit()
            counts[index] += 2
        main.abort()


def measure() -> dict[str, int]:
    """Counts what a leak would make grow. Waits a moment for the ends that nobody waited for."""
    deadline = time.monotonic() + 5.0
    while len(guest_pids()) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    warden = warden_pid()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "guests": len(guest_pids()),
        "warden_descriptors": len(list(Path(f"/proc/{warden}/fd").iterdir())),
        "warden_bytes": resident(warden),
        "warden_mounts": len(Path(f"/proc/{warden}/mounts").read_text().splitlines()),
    }


def warden_pid() -> int:
    """Finds the warden of this process."""
    for entry in Path("/proc").iterdir():
        # Others end while they are looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == "kibo-warden":
                keeper = parent(int(entry.name))
                if parent(keeper) == own_pid():
                    return int(entry.name)
    raise LookupError("this process has no warden")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def resident(pid: int) -> int:
    """Reads a process's private memory, in bytes: what it shares with its forks does not count as grown."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Dirty", "Private_Clean"))


if __name__ == "__main__":
    sys.exit(main())
