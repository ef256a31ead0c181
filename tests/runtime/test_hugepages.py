"""Memory that is cheap to fork: where it lies in huge pages, and what it must never be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kibo import Box, action

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_huge_pages = pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(),
    reason="the host has no huge pages: boxes are only slower",
)


class Holder(Box):
    """Has 48 MB of live objects."""

    def launch(self) -> None:
        """Makes them."""
        self.rows = [f"row {number}".ljust(400) for number in range(110_000)]

    @action
    def smaps(self) -> str:
        """Return what the kernel tells of the memory."""
        with open("/proc/self/smaps") as file:
            return file.read()

    @action
    def total(self) -> int:
        """Return a sum over all of it, which also writes to it."""
        return sum(int(row.split()[1]) for row in list(self.rows))


@needs_huge_pages
def test_a_boxs_live_state_is_mostly_in_huge_pages() -> None:
    with Holder().spawn() as box:
        huge_kib = sum(
            int(line.split()[1]) for line in box.smaps().splitlines() if line.startswith("AnonHugePages:")
        )
    # What lies between two pieces of memory that a growing list left is in small ones.
    assert huge_kib > 16 * 1024, f"{huge_kib} KiB of 48 MiB and more"


def test_no_memory_of_a_box_is_writable_and_executable() -> None:
    with Holder().spawn() as box:
        heads = [line.split() for line in box.smaps().splitlines() if not line.split()[0].endswith(":")]
    assert len(heads) > 20
    assert [head for head in heads if "w" in head[1] and "x" in head[1]] == []


def test_forks_of_one_state_write_to_memory_of_their_own() -> None:
    state = Holder()
    with state.spawn() as first, state.spawn() as second:
        assert first.total() == second.total() == sum(range(110_000))


def test_code_that_runs_while_it_is_replaced_goes_on() -> None:
    program = (
        "from kibo.runtime import hugepages\n"
        "kept = hugepages.reserve()\n"
        "import json, decimal, re\n"
        "hugepages.collapse_code(); hugepages.collapse_heap()\n"
        "import os, email.message\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(int(decimal.Decimal('3.5') * 2))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.dumps(re.findall('[a-c]+', 'xabcx')))\n"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert done.stdout == '7 ["abc"]\n'
