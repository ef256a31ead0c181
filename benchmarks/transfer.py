"""Files into a box and out of it, in bulk."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.boxes import ECHO
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale

TITLE = "files, 1,000 of 10 KB each"
FILES = 1000
FILE_BYTES = 10_000


def run(scale: Scale) -> Iterator[Figure]:
    """Yields uploads and downloads of the same tree, each into a fresh box."""
    up: list[float] = []
    down: list[float] = []
    copied: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        tree = make_tree(Path(place) / "tree")
        for number in range(scale.of(20) // 5):
            with ECHO.spawn() as box:
                box.files.write(
                    "warm", b""
                )  # starts the server, which the first use of a box's files pays for
                start = time.perf_counter()
                box.files.upload(tree, "tree")
                up.append(time.perf_counter() - start)
                start = time.perf_counter()
                box.files.download("tree", Path(place) / f"back-{number}")
                down.append(time.perf_counter() - start)
            start = time.perf_counter()
            shutil.copytree(tree, Path(place) / f"copy-{number}")
            copied.append(time.perf_counter() - start)
            assert sum(1 for _ in (Path(place) / f"back-{number}").rglob("*.bin")) == FILES
    yield distribution("files.upload", up, target=500.0)
    yield distribution("files.download", down)
    yield distribution("a plain copy on the host's disk, for comparison", copied)


def make_tree(tree: Path) -> Path:
    """Makes the files, in ten directories."""
    for number in range(FILES):
        path = tree / str(number % 10) / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * (FILE_BYTES // 4))
    return tree
