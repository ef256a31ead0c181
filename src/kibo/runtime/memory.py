"""What memory a box takes of its host, as the kernel accounts for it."""

from __future__ import annotations

from pathlib import Path


def memory_of(pid: int) -> int | None:
    """Returns the memory of a process and all below it, in bytes: what each shares counts in proportion.

    What a fork has in common with its origin is shared with it until one of them writes there, so that forks of one
    origin together are little more than it is. The kernel walks their pages: about a millisecond for 100 MB.

    Args:
        pid: A box's first process, as this process sees it.

    Returns:
        The sum, or None where that process cannot be looked at. Source: proc(5) on ``smaps_rollup``.
    """
    total, ahead = 0, [pid]
    while ahead:
        at = ahead.pop()
        try:
            total += _proportional(at)
            for task in Path(f"/proc/{at}/task").iterdir():
                ahead += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            if at == pid:
                return None  # it has ended, or guards itself; one below it that does counts for nothing
    return total


def _proportional(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) << 10
    raise ValueError(f"process {pid} has no memory")
