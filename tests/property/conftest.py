"""Mounts for the properties of stacks."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlays import Overlays


@pytest.fixture(scope="session")
def overlays() -> Iterator[Overlays]:
    """A process that mounts, and a directory for it."""
    place = Path(
        tempfile.mkdtemp(prefix="kibo-overlays-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    )
    made = Overlays(place)
    yield made
    made.close()
    shutil.rmtree(place)
