"""A thousand boxes at once: that all of them answer, and what each of them holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.boxes import ECHO
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale

TITLE = "idle boxes at once"
#: What the kernel holds for processes, namespaces and mounts, by its own account.
KERNEL_FIELDS: Final = ("Slab", "KernelStack", "PageTables", "Percpu")
MIB: Final = 1 << 20


def run(scale: Scale) -> Iterator[Figure]:
    """Yields how long they take to be there, to answer and to go, and their memory in user space and in the kernel."""
    count = scale.of(1000)
    with ECHO.spawn() as box:
        box.echo("warm")
    before = meminfo()
    start = time.perf_counter()
    boxes = [ECHO.spawn() for _ in range(count)]
    up = time.perf_counter() - start
    seconds = []
    for index, box in enumerate(boxes):
        text = f"box {index}"
        asked = time.perf_counter()
        assert box.echo(text) == text
        seconds.append(time.perf_counter() - asked)
    after = meminfo()
    guests = guest_pids()
    assert len(guests) >= count, f"{len(guests)} guests for {count} boxes"
    shares = [pss(pid) for pid in guests]
    yield Figure("boxes, all answering", "boxes", float(count))
    yield Figure("until all are up", "s", up)
    yield distribution("first action of each, when all are up", seconds)
    yield Figure(
        "memory of a box (PSS)",
        "MiB",
        sorted(shares)[len(shares) // 2] / MIB,
        low=min(shares) / MIB,
        p99=sorted(shares)[int(len(shares) * 0.99)] / MIB,
        target=1.5,
        count=len(shares),
    )
    grown = {name: (after[name] - before[name]) / count / MIB for name in (*KERNEL_FIELDS, "Shmem")}
    parts = ", ".join(f"{name} {value * 1024:.0f} KiB" for name, value in grown.items() if name != "Shmem")
    yield Figure("kernel's share of a box", "MiB", sum(grown[name] for name in KERNEL_FIELDS), note=parts)
    yield Figure("files of a box (its writable layer)", "MiB", grown["Shmem"])
    start = time.perf_counter()
    for box in boxes:
        box.destroy()
    yield Figure("until all are gone", "s", time.perf_counter() - start)


def meminfo() -> dict[str, int]:
    """Reads /proc/meminfo, in bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines}


def guest_pids() -> list[int]:
    """Finds the guests among the descendants of this process; those of other users of Kibo do not count."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            head, _, tail = (entry / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        names[int(entry.name)] = head.partition("(")[2]
        parents[int(entry.name)] = int(tail.split()[1])
    found = []
    own = own_pid()
    for pid, name in names.items():
        above = pid
        while above in parents and above != own:
            above = parents[above]
        if above == own and name == "kibo-guest":
            found.append(pid)
    return found


def own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


def pss(pid: int) -> int:
    """Reads a process's proportional set size, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss for process {pid}")
