"""Runtimes and state directories that one test or one module of tests has for itself."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from kibo import wiring
from kibo.runtime.idmap import choose_map
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.layers.temporary import remove_tree

#: A variable that names a state directory with the layers of a box that asks for nothing.
PLAIN = "KIBO_TESTS_PLAIN"
#: Builds them, in the state directory that KIBO_HOME names.
BUILD_PLAIN = "from kibo import Box; type('Plain', (Box,), {})().spawn().destroy()"


@contextmanager
def own_runtime(like: Path | None = None) -> Iterator[None]:
    """Puts a runtime in the place of this process's for a block, and ends it with all it kept.

    Args:
        like: A state directory whose layers of environments it has from the start.
    """
    before, place = wiring._runtime, Path(tempfile.mkdtemp(prefix="kibo-own-"))
    if like is not None:
        link_layers(like, place)
    wiring._runtime = wiring.Runtime(place)
    yield
    wiring._runtime.close()
    wiring._runtime = before
    shutil.rmtree(place)


def new_home(prefix: str) -> Path:
    """Makes a state directory, which its maker removes. What every box stands on is built once for all of a process."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    if (
        choose_map().kind != "subuid"
    ):  # files of a granted range's ids are linked by nobody else, proc_sys_fs(5)
        link_layers(_plain(), path)
    return path


@cache
def _plain() -> Path:
    if PLAIN in os.environ:
        return Path(os.environ[PLAIN])
    path = Path(tempfile.mkdtemp(prefix="kibo-plain-"))
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-c", BUILD_PLAIN],
        env={**os.environ, "KIBO_HOME": str(path), "PYTHONPATH": paths},
        check=True,
        timeout=60,
    )
    atexit.register(_remove, path, os.getpid())
    os.environ[PLAIN] = str(path)  # tests that this process starts have them too
    return path


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        remove_tree(path)


def link_layers(of: Path, into: Path) -> None:
    """Gives a state directory what another has built: layers never change, so that both can have the same files."""
    prepare_home(into)
    for part in ("layers", "keys"):
        subprocess.run(["cp", "-al", "--", f"{of / part}/.", into / part], check=True)
