"""What a program pays before its first box: imports, the command line, the runtime's own start."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, distribution, missing
from benchmarks.scale import Scale

TITLE = "starting"

_RUNTIME = """
import time, benchmarks.boxes
start = time.perf_counter()
with benchmarks.boxes.Echo().spawn() as box:
    box.echo("hello")
print(time.perf_counter() - start)
"""


def run(scale: Scale) -> Iterator[Figure]:
    """Yields whole processes, the bare interpreter among them."""
    count = max(5, scale.of(50) // 5)
    commands = {
        "python -c pass": ["-c", "pass"],
        "python -c 'import kibo'": ["-c", "import kibo"],
        "python -c 'from kibo import Box, action'": ["-c", "from kibo import Box, action"],
        "python -c 'import sqlalchemy', for comparison": ["-c", "import sqlalchemy"],
        "python -c 'import kibo.wiring.branches'": ["-c", "import kibo.wiring.branches"],
    }
    has_command_line = importlib.util.find_spec("kibo.cli") is not None
    if has_command_line:
        for command in ("--help", "ps", "runs"):
            commands[f"kibo {command}"] = ["-c", "from kibo.cli import main; main()", command]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(count):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                check=True,
                capture_output=True,
                env=os.environ | {"COLUMNS": "100"},
            )
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        yield distribution(name, values, target=150.0 if name == "kibo --help" else None)
    if not has_command_line:
        yield missing("kibo --help", "kibo.cli does not exist yet")
    cold = [
        float(
            subprocess.run(
                [sys.executable, "-c", _RUNTIME], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        )
        for _ in range(5)
    ]
    yield distribution("a process's first box: warden, launch and seal", cold, note="layers cached")
