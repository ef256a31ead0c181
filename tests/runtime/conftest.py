"""One state directory for all tests of the runtime, and a look after each module at what it left."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kibo
import leftovers
from kibo import wiring
from kibo.branch.branch import Branch
from kibo.runtime.idmap import choose_map
from kibo.runtime.layers.temporary import remove_tree
from own_runtimes import new_home


@pytest.fixture(scope="session", autouse=True)
def home() -> Iterator[Path]:
    """The state directory: layers are built once for all tests."""
    before = os.environ.get("KIBO_HOME")
    path = new_home("kibo-tests-")
    os.environ["KIBO_HOME"] = str(path)
    yield path
    wiring.runtime().close()
    if choose_map().kind != "subuid":  # of a granted range's ids, files are removed by whoever granted it
        remove_tree(path)  # a box may have closed directories to their owner
    if before is None:
        del os.environ["KIBO_HOME"]
    else:
        os.environ["KIBO_HOME"] = before


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(home: Path) -> Iterator[None]:
    """Ends the runtime after each module, and fails where anything of it is left."""
    before = set(leftovers.descendants(os.getpid()))
    yield
    gc.collect()
    wiring.runtime().close()
    left = leftovers.await_clean(home, os.getpid(), before, within_s=5.0)
    assert not left, f"left behind: {left}"


@pytest.fixture
def main() -> Iterator[Branch]:
    """The root of a tree of its own."""
    with kibo.branch("to be tested") as branch:
        yield branch


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory to be a workspace, which may hold what pytest could not remove."""
    place = tmp_path / "work"
    place.mkdir()
    yield place
    remove_tree(place)


@pytest.fixture
def calls() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that wait while the test goes on."""
    with ThreadPoolExecutor(8) as threads:
        yield threads
