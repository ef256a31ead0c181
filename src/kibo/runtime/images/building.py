"""The user's process's side of a build: starts the builder, follows its events, and ends it when no longer wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

import kibo
from kibo.model import errors
from kibo.model.errors import KiboError
from kibo.runtime.layers.collection import Collected, Collecting

#: A line of the builder's is an event with one line of a program's output; programs print what they like.
_MAX_LINE_BYTES: Final = 16 << 20


def do_job(job: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job in a builder process and waits for its end.

    Raises:
        KiboError: What the builder reported.
    """
    process = subprocess.Popen(
        _command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_variables(),
        start_new_session=True,  # Ctrl-C is for us; we then end the builder in order
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(_encode(job))
            process.stdin.flush()
            for line in process.stdout:
                _take(line, on_event)
        finally:
            process.stdin.close()  # the order to stop, where it has not ended by itself
            process.wait()
        complaint = process.stderr.read()
    if process.returncode < 0:
        sweep_leftovers(Path(job["home"]))  # the builder was killed, and could not do it itself
    _check_end(process.returncode, complaint)


async def follow_job(job: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job in a builder process without blocking the event loop.

    Cancelling ends the builder and waits until it is gone.

    Raises:
        KiboError: What the builder reported.
    """
    process = await anyio.open_process(
        _command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_variables(),
        start_new_session=True,  # Ctrl-C is for us; we then end the builder in order
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaint = b""
    try:
        await process.stdin.send(_encode(job))
        pending = b""
        async for chunk in process.stdout:
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) > _MAX_LINE_BYTES:
                raise errors.FrameTooLarge(
                    "the builder sent an event without end",
                    hint="A build step prints a line of many megabytes; have it print less.",
                    details={"bytes": len(pending)},
                )
            for line in lines:
                _take(line, on_event)
        async for chunk in process.stderr:
            complaint += chunk
    finally:
        with anyio.CancelScope(shield=True):
            await process.stdin.aclose()  # the order to stop, where it has not ended by itself
            await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()
    assert process.returncode is not None
    if process.returncode < 0:
        await anyio.to_thread.run_sync(sweep_leftovers, Path(job["home"]))
    _check_end(process.returncode, complaint)


def sweep_leftovers(home: Path) -> tuple[str, ...]:
    """Removes what killed processes left in a state directory. Returns the names of what went.

    Raises:
        KiboError: What the builder reported.
    """
    names: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "swept":
            names.extend(event["names"])

    do_job({"job": "sweep", "home": str(home)}, on_event)
    return tuple(names)


def collect_layers(
    home: Path,
    *,
    unused_s: float = 7 * 86_400.0,
    keep: Collection[str] = (),
    dry: bool = False,
    progress: Callable[[Collecting], None] | None = None,
) -> Collected:
    """Collects layers as `kibo.runtime.layers.collection.collect` does, in a builder, which has power over their ids.

    Raises:
        KiboError: What the builder reported.
    """
    found: list[Collected] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "collected":
            layers, swept = tuple(event["layers"]), tuple(event["swept"])
            found.append(Collected(layers, event["freed_bytes"], event["kept"], swept))
        elif progress is not None:
            progress(Collecting(event["done"], event["total"]))

    do_job(
        {"job": "collect", "home": str(home), "unused_s": unused_s, "keep": list(keep), "dry": dry}, on_event
    )
    return found[0]


def _command() -> list[str]:
    # -P: the working directory is the user's, and a file of theirs may have the name of a module.
    return [sys.executable, "-P", "-m", "kibo.runtime.builder"]


def _variables() -> dict[str, str]:
    """The builder must find this very Kibo, wherever it was imported from."""
    paths = [str(Path(kibo.__path__[0]).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _encode(job: dict[str, Any]) -> bytes:
    return json.dumps(job).encode() + b"\n"


def _take(line: bytes, on_event: Callable[[dict[str, Any]], None]) -> None:
    event = json.loads(line)
    if event["event"] == "error":
        raise _read_error(event)
    on_event(event)


def _check_end(status: int, complaint: bytes) -> None:
    if status != 0:
        raise errors.BuildFailed(
            "the builder process ended before its work was done",
            log_tail=complaint.decode(errors="replace")[-4096:],
            hint="Run the build again; the steps that were finished are kept.",
            details={"status": status},
        )


def _read_error(event: dict[str, Any]) -> KiboError:
    """Makes the error that a builder reported into the exception of the same code."""
    classes = {
        cls.code: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, KiboError)
    }
    cls = classes.get(event["code"], errors.Bug)
    options: dict[str, Any] = {"hint": event.get("hint", ""), "details": event.get("details", {})}
    if cls is errors.BuildFailed:
        options |= event.get("build", {})
    return cls(event["message"], **options)
