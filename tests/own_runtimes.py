"""Runtimes and state directories that one test or one module of tests has for itself."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kibo import wiring
from kibo.runtime.layers.home import prepare_home


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


def link_layers(of: Path, into: Path) -> None:
    """Gives a state directory what another has built: layers never change, so that both can have the same files."""
    prepare_home(into)
    for part in ("layers", "keys"):
        subprocess.run(["cp", "-al", "--", f"{of / part}/.", into / part], check=True)
