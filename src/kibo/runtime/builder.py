"""The process that builds layers: ``python -m kibo.runtime.builder``.

Started by the user's process with a pipe as its standard input. The first line of the pipe is the job, as JSON; the
pipe then stays open for as long as the user's process lives, and its end is the order to stop. Standard output
carries events, one JSON object a line.

Two processes: the supervisor only watches the pipe, the worker builds. When the pipe ends, the supervisor kills the
worker and everything below it, waits until they are gone, and removes their temporary files. If the supervisor itself
is killed the kernel ends the worker with it, and the next start sweeps the files.

As the host's root both keep their ids, because they must read the host's files, and each finished file gets the id that
stands for its owner inside boxes. As an ordinary user they enter a user namespace first, in which they are root over
the user's own files.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from kibo.model.errors import KiboError
from kibo.runtime import kernel
from kibo.runtime.idmap import IdMap, choose_map, write_maps
from kibo.runtime.images.bounds import StepBounds
from kibo.runtime.images.work import Worker
from kibo.runtime.layers.collection import Collecting, collect
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.layers.temporary import sweep

_PR_SET_CHILD_SUBREAPER: Final = 36


def main() -> NoReturn:
    """Reads the job, does it under watch, and ends with 0, or with 1 after an ``error`` event."""
    line = (
        sys.stdin.buffer.raw.readline() if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer.readline()
    )
    if not line.endswith(b"\n"):
        os._exit(1)  # whoever started this process is gone already
    job = json.loads(line)
    os.umask(0o022)
    idmap = choose_map()
    if idmap.kind != "root":
        _enter_user_namespace(idmap)
    home = Path(job["home"])
    prepare_home(home)
    os._exit(_supervise(home, job, idmap))


def _enter_user_namespace(idmap: IdMap) -> None:
    """Makes this process root over its user's ids. The maps come from a child that stays outside to write them."""
    ready_read, ready_write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(ready_write)
        os.read(ready_read, 1)
        os._exit(_write_maps(parent, idmap))
    kernel.unshare(kernel.CLONE_NEWUSER)
    os.write(ready_write, b"x")
    os.close(ready_write)
    os.close(ready_read)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        os._exit(1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _write_maps(pid: int, idmap: IdMap) -> int:
    """Gives a process its ids. Returns an exit status, with an ``error`` event where it is not 0."""
    try:
        write_maps(pid, idmap)
    except OSError as error:
        emit(
            {
                "event": "error",
                "code": "host.unsupported",
                "message": f"the kernel or newuidmap refused the id map: {error.strerror}",
                "hint": "Run `kibo doctor`; the range in /etc/subuid and /etc/subgid must be this user's.",
                "details": {"missing": "id-map", "kind": idmap.kind},
            }
        )
        return 1
    return 0


def _supervise(home: Path, job: dict[str, Any], idmap: IdMap) -> int:
    # Processes whose parent died are then this one's, so that it can wait for all of them.
    kernel.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    swept = sweep(home)
    pid = os.fork()
    if pid == 0:
        _work(home, job, idmap, swept)
    pidfd = kernel.pidfd_open(pid)
    watched = select.poll()
    watched.register(0, select.POLLIN | select.POLLHUP)
    watched.register(pidfd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in watched.poll()}
        if pidfd in ready or not os.read(0, 4096):
            break
    status = _end_all(pid)
    sweep(home)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


def _end_all(worker: int) -> int:
    """Kills the worker and waits for it and all that it left behind. Returns its wait status."""
    status = 1
    os.kill(worker, signal.SIGKILL)  # no effect on one that has ended and is not yet waited for
    while True:
        try:
            ended, ended_status = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if ended == worker:
            status = ended_status


def _work(home: Path, job: dict[str, Any], idmap: IdMap, swept: list[str]) -> NoReturn:
    status = 1
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        _do(home, job, idmap, swept)
        status = 0
    except KiboError as error:
        emit({"event": "error", **error.to_dict(), "build": error.to_dict().get("build", {})})
    except BaseException as error:  # noqa: BLE001 - the process ends here; the event carries the error on
        import traceback

        emit(
            {
                "event": "error",
                "code": "kibo.bug",
                "message": f"the builder failed: {type(error).__name__}: {error}",
                "details": {"traceback": traceback.format_exc()},
            }
        )
    finally:
        os._exit(status)


def _do(home: Path, job: dict[str, Any], idmap: IdMap, swept: list[str]) -> None:
    match job["job"]:
        case "build":
            bounds = StepBounds(**job["bounds"])
            Worker(home, idmap, emit, job.get("locked"), bounds).build(job["steps"])
        case "sweep":
            emit({"event": "swept", "names": swept})  # every builder sweeps before it starts to work
        case "collect":

            def tell(at: Collecting) -> None:
                emit({"event": "collecting", "done": at.done, "total": at.total})

            result = collect(home, unused_s=job["unused_s"], keep=job["keep"], dry=job["dry"], progress=tell)
            facts = {name: getattr(result, name) for name in result.__slots__}
            emit({"event": "collected", **facts, "swept": [*swept, *result.swept]})
        case other:
            raise ValueError(f"unknown job {other!r}")


def emit(event: dict[str, Any]) -> None:
    """Sends one event. A line is written at once, so that the reader never sees half of one for long."""
    data = (json.dumps(event) + "\n").encode()
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
