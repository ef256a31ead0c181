"""Starts the background process that holds a spawned instance, and follows it until the instance is ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kibo
from kibo.cli.failures import Reported
from kibo.model.errors import RuntimeLost
from kibo.runtime.images.environment import BuildEvent
from kibo.runtime.layers.home import prepare_home, state_home
from kibo.runtime.states import Launched, Launching

#: What a build's progress may be told, by name.
EVENTS: dict[str, type[BuildEvent | Launching | Launched]] = {
    cls.__name__: cls for cls in (BuildEvent, Launching, Launched)
}


def start_holder(
    box: str, name: str, ttl_s: float | None, progress: Callable[[object], None]
) -> dict[str, Any]:
    """Spawns a box in a process of its own, which outlives this one.

    Args:
        box: The reference, as the command line has it.
        name: What to call the instance; may be empty.
        ttl_s: Seconds that it may live, or None.
        progress: Takes the build's events.

    Returns:
        What the holder tells: ``instance``, ``name``, ``box``, ``session`` and ``pid``.

    Raises:
        KiboError: What went wrong there. Nothing is left.
    """
    home = state_home()
    prepare_home(home)
    log = home / "logs" / f"holder-{os.getpid()}.log"
    paths = [str(Path(kibo.__path__[0]).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            # -P: the working directory is the user's, and a file of theirs may have the name of a module.
            [sys.executable, "-P", "-m", "kibo.cli.holder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _tell(process.stdin, {"box": box, "name": name, "ttl_s": ttl_s, "log": str(log)})
        for line in process.stdout:
            told = json.loads(line)
            if told["event"] == "ready":
                _tell(process.stdin, {"keep": True})
                return dict(told["held"])
            if told["event"] == "failed":
                raise Reported(told["error"], told["exit_code"])
            progress(EVENTS[told["event"]](**told["facts"]))
        process.wait()
        tail = log.read_text(errors="replace")[-2000:]
        log.unlink(missing_ok=True)
        raise RuntimeLost(
            "the process that was to hold the instance ended before it was ready",
            hint="Look at what it said; if it was killed, is there memory?",
            details={"status": process.returncode, "log": tail},
        )
    except BaseException:
        # Its standard input ends without a word to stay: it ends, and all that it began.
        process.stdin.close()
        process.wait()
        raise


def _tell(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()
