"""What a process shares with others: the kernel's query and its list say the same."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from kibo.runtime import sharedmemory
from kibo.runtime.sharedmemory import shared_mappings


def test_a_kernel_without_the_query_is_asked_for_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with mmap.mmap(-1, 1 << 16) as shared:
        shared[0] = 1
        asked = shared_mappings(os.getpid())
        monkeypatch.setattr(sharedmemory, "_PROCMAP_QUERY", 0xC06866FF)  # a number that no kernel knows
        listed = shared_mappings("self")
    assert asked == listed
    assert asked


def test_only_what_can_be_written_counts_as_shared(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(bytes(8192))
    before = shared_mappings("self")
    with open(place, "rb") as file, mmap.mmap(file.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ):
        assert shared_mappings("self") == before
    # Mapped for reading; but whoever has it open for writing may have it mapped so at any time. Of another length: what
    # the kernel has said of a region it says again of the next one between the same addresses.
    with open(place, "rb+") as file, mmap.mmap(file.fileno(), 8192, mmap.MAP_SHARED, mmap.PROT_READ):
        found = [os.readlink(f"/proc/self/map_files/{region}") for region in shared_mappings("self")]
        assert str(place) in found
