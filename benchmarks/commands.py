"""Commands in a running box, and what a user would otherwise start: bubblewrap."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

from benchmarks.boxes import ECHO
from benchmarks.figures import Figure, distribution, middle, missing
from benchmarks.scale import Scale

TITLE = "commands, and bubblewrap beside them"
TURN = 10
BWRAP = (
    "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr",
    "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
)  # fmt: skip
PRINT = ("python3", "-c", "print(1)")


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the figures, each pair measured in turns."""
    yield from in_running_box(scale)
    if shutil.which("bwrap") is None:
        yield missing("bubblewrap", "bwrap is not installed")
        return
    python = "/usr/bin/python3"
    yield from compared("true", scale, lambda: new_box_command(("true",)), lambda: bubblewrap(("true",)))
    yield from compared(
        "python3 -c 'print(1)'",
        scale,
        lambda: new_box_command(PRINT),
        lambda: bubblewrap((python, *PRINT[1:])),
    )
    yield from compared("one line of Python", scale, new_box_action, lambda: bubblewrap((python, *PRINT[1:])))


def in_running_box(scale: Scale) -> Iterator[Figure]:
    """Yields what a command costs where the box is there already."""
    with ECHO.spawn() as box:
        for name, command, target in (
            ('exec("true")', "true", 1.5),
            ('exec(["true"]), without a shell', ["true"], None),
        ):
            for _ in range(10):
                box.exec(command)
            seconds = []
            for _ in range(scale.of(500)):
                start = time.perf_counter()
                done = box.exec(command)
                seconds.append(time.perf_counter() - start)
                assert done.returncode == 0
            yield distribution(name, seconds, target=target)
        seconds = []
        for _ in range(scale.of(500)):
            start = time.perf_counter()
            box.echo("hello")
            seconds.append(time.perf_counter() - start)
        yield distribution("an action, for comparison", seconds)


def compared(
    what: str, scale: Scale, ours: Callable[[], float], theirs: Callable[[], float]
) -> Iterator[Figure]:
    """Yields both sides and their ratio, from turns that take each other's place."""
    mine: list[float] = []
    other: list[float] = []
    ours(), theirs()
    for _ in range(scale.of(200) // TURN):
        other += [theirs() for _ in range(TURN)]
        mine += [ours() for _ in range(TURN)]
    label = "a new box's action" if ours is new_box_action else f"a new box: {what}"
    yield distribution(label, mine)
    if ours is not new_box_action:
        yield distribution(f"bubblewrap: {what}", other)
    yield Figure(f"  bubblewrap / ours, {what}", "x", middle(other) / middle(mine), count=len(mine))


def new_box_command(command: tuple[str, ...]) -> float:
    """Spawns a box, runs a command in it and destroys it; the seconds of all three, as with bubblewrap."""
    start = time.perf_counter()
    with ECHO.spawn() as box:
        done = box.exec(command)
    assert done.returncode == 0, done
    return time.perf_counter() - start


def new_box_action() -> float:
    """Spawns a box, calls an action and destroys it; the seconds of all three."""
    start = time.perf_counter()
    with ECHO.spawn() as box:
        box.echo("1")
    return time.perf_counter() - start


def bubblewrap(command: tuple[str, ...]) -> float:
    """Runs a command under bubblewrap."""
    start = time.perf_counter()
    subprocess.run([*BWRAP, *command], check=True, capture_output=True)
    return time.perf_counter() - start
