"""The background process behind `kibo spawn`: ``python -m kibo.cli.holder``.

Reads one line that says what to hold, tells the build's events and then that the instance is ready, and stays if it is
told to. It ends when the instance does, when its time is over, or by SIGTERM; if it is killed, the runtime ends all.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from kibo.cli.failures import bug, exit_code
from kibo.cli.references import load_box
from kibo.cli.served import ServedCalls
from kibo.model.errors import KiboError
from kibo.runtime.instance import Instance, conversation_of
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime

#: In a session's directory: its owner lives for its instances, and ends with the last.
HOLDER_MARK = "holder"


def main() -> int:
    """Holds one instance; returns the exit status."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_starter, daemon=True).start()
    try:
        instance = runtime().spawn(load_box(order["box"]), name=order["name"], progress=_tell_progress)
        _hold(instance, order)
        return 0
    except KiboError as error:
        _tell({"event": "failed", "error": error.to_dict(), "exit_code": exit_code(error)})
    except Exception as error:  # noqa: BLE001 - told to whoever started this process
        failure = bug(error)
        _tell({"event": "failed", "error": failure.to_dict(), "exit_code": exit_code(failure)})
    finally:
        runtime().close()
        log = Path(order["log"])
        if log.stat().st_size == 0:
            log.unlink()
    return 1


def _hold(instance: Instance, order: dict[str, Any]) -> None:
    talk = conversation_of(instance)
    session = talk.session
    directory = runtime().home / "run" / session.name
    (directory / HOLDER_MARK).touch()
    ServedCalls(instance, directory)
    _, (first_process,) = run(session.ask(Blocking(), "process", {"id": instance.id}))
    held = {"instance": instance.id, "name": order["name"], "session": session.name, "pid": os.getpid()}
    _tell({"event": "ready", "held": held})
    ends = None if order["ttl_s"] is None else time.monotonic() + order["ttl_s"]
    poll = select.poll()
    poll.register(first_process, select.POLLIN)
    while not poll.poll(None if ends is None else max(0.0, ends - time.monotonic()) * 1000):
        if ends is not None and time.monotonic() >= ends:
            break
    instance.destroy()


def _watch_starter() -> None:
    """Waits for the word to stay. Without it, whoever started this is gone or wants no more, and this process ends."""
    if sys.stdin.readline():
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        return
    os.kill(os.getpid(), signal.SIGTERM)


def _tell_progress(event: Any) -> None:
    _tell({"event": type(event).__name__, "facts": asdict(event)})


def _tell(message: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return  # whoever started this is gone, which `_watch_starter` sees


def _leave(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
