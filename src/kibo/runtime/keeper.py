"""The keeper: starts the warden inside its namespaces, and cleans up after it whatever happens.

It stays outside of them, does nothing while boxes run, and outlives both the user's process and the warden by the
moment that it needs to remove what the kernel does not: control groups and the session's directory. Run as
``python keeper.py`` with its settings on standard input, as JSON; they name what it may import.
"""

# ruff: noqa: E402 - what is imported first decides where everything lies in memory
from __future__ import annotations

import json
import sys
from typing import Any, Final

_CONFIG: Final = json.load(sys.stdin) if __name__ == "__main__" else {}
if _CONFIG:
    sys.path[:] = _CONFIG["python_path"]

from kibo.runtime import hugepages

_RESERVED: Final = hugepages.reserve() if _CONFIG else []

import ctypes
import gc
import os
import resource
import select
import signal
import socket
import traceback
from pathlib import Path

import cloudpickle  # noqa: F401 - guests unpickle their classes with it: loaded once, here

import kibo.box.define
import kibo.box.ship  # noqa: F401 - as above
from kibo.box.env import Limits  # noqa: F401
from kibo.model.errors import KiboError
from kibo.runtime import idmap, kernel, oldermounts, roots, seccomp, warden, wire, world
from kibo.runtime.cells import Groups
from kibo.runtime.cgroups import PLACES_FILE, CgroupLimits, Cgroups, open_cgroups

_NAMESPACES: Final = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
)


def main(config: dict[str, Any]) -> int:
    """Runs one session's keeper.

    Args:
        config: ``session`` (a name), ``run`` (the session's directory), ``layers`` (the store's), ``deltas`` (where
            writable layers lie on disk), ``python_path``, ``without`` (features of the kernel to do without),
            ``owner_pid``, ``owner_fd`` (command socket of the user's process), ``life_fd`` (which that process closes
            to end), ``ready_fd`` (one JSON line is written there), ``listen_fd`` (or -1), ``lock_fd`` (held until all
            is cleaned up).

    Returns:
        The exit status: 0 when everything was cleaned up.
    """
    os.setsid()
    _forget_arguments()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The pipe tells of an orderly end. A kill may leave it open in other children of the owner; its pidfd does not lie.
    cgroups = open_cgroups(config["session"])
    try:
        owner = kernel.pidfd_open(config["owner_pid"])
    except ProcessLookupError:
        # Killed while this process started: there is nobody to serve, and its directory to remove.
        _clean(config["run"], cgroups)
        return 0
    try:
        # Whoever sweeps up after a killed keeper may be in another group itself, and so look in another place.
        with open(os.path.join(config["run"], PLACES_FILE), "w") as file:
            json.dump(cgroups.places(), file)
    except OSError as error:
        _report(config["ready_fd"], {"kind": "failed", "errno": error.errno or 0, "message": str(error)})
        _clean(config["run"], cgroups)
        return 1
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    filters = {nested: seccomp.compile_filter(nested_namespaces=nested) for nested in (False, True)}
    idmap_used = _warden_map()
    gc.collect()
    gc.freeze()
    pid = kernel.clone(_NAMESPACES)
    if pid == 0:
        ours.close()
        os.close(config["life_fd"])
        os.close(config["lock_fd"])
        os.close(owner)
        _become_warden(config, theirs, filters, idmap_used, enabled=bool(cgroups.version))
    theirs.close()
    os.close(config["owner_fd"])
    if config["listen_fd"] >= 0:
        os.close(config["listen_fd"])
    pidfd = kernel.pidfd_open(pid)
    try:
        idmap.write_maps(pid, idmap_used)
        wire.send_command(ours, "mapped", _mounts_for(pid, config, idmap_used))
        answer, _, _ = wire.receive_command(ours)
        _report(config["ready_fd"], answer)
        if answer["kind"] == "ok":
            _watch(ours, pidfd, (config["life_fd"], owner), cgroups)
    except wire.Closed:
        _report(config["ready_fd"], {"kind": "failed", "message": "the warden ended while it started"})
    except Exception as error:  # noqa: BLE001 - whatever it is, the user's process is told and all is cleaned up
        _report(config["ready_fd"], {"kind": "failed", "message": f"{type(error).__name__}: {error}"})
    finally:
        _end(pidfd)
        _clean(config["run"], cgroups)
    return 0


def _forget_arguments() -> None:
    """Overwrites this process's command line and environment, which every box's first process would show as its own."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    for start, end in ((int(fields[45]), int(fields[46])), (int(fields[47]), int(fields[48]))):
        ctypes.memset(start, 0, end - start)
    ctypes.memmove(int(fields[45]), b"kibo", 4)


def _warden_map() -> idmap.IdMap:
    chosen = idmap.choose_map()
    if chosen.kind != "single":
        return chosen
    # Programs in boxes run as the box's user, so that is what the one id is called inside.
    return idmap.IdMap("single", ((idmap.BOX_ID, os.geteuid(), 1),), ((idmap.BOX_ID, os.getegid(), 1),))


def _mounts_for(pid: int, config: dict[str, Any], chosen: idmap.IdMap) -> list[int]:
    """Opens, with the rights of the host's root, what the warden may not reach by itself. Empty for ordinary users."""
    if chosen.kind != "root":
        return []
    clone = kernel.OPEN_TREE_CLONE
    layers_fd = kernel.open_tree(kernel.AT_FDCWD, config["layers"], clone)
    deltas_fd = kernel.open_tree(kernel.AT_FDCWD, config["deltas"], clone)
    usr_fd = kernel.open_tree(kernel.AT_FDCWD, "/usr", clone)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    kernel.mount_setattr(usr_fd, set_=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace)
    os.close(namespace)
    return [layers_fd, usr_fd, deltas_fd]


def _become_warden(
    config: dict[str, Any],
    keeper: socket.socket,
    filters: dict[bool, bytes],
    chosen: idmap.IdMap,
    *,
    enabled: bool,
) -> None:
    """Sets the warden up and runs it. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        _, descriptors, _ = wire.receive_command(keeper)
        layers_fd, usr_fd, deltas_fd = descriptors or (-1, -1, -1)
        if chosen.kind != "single":
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        # Changing ids made our /proc files root's of the host; we must write the id maps of our children.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.set_name("kibo-warden")
        roots.features = oldermounts.try_features(config["without"])
        world.build_world(layers_fd, config["layers"], usr_fd, deltas_fd, config["deltas"])
        settings = warden.Settings(single_id=chosen.kind == "single", box_uid=idmap.BOX_ID, filters=filters)
        os.close(config["ready_fd"])
        listener = socket.socket(fileno=config["listen_fd"]) if config["listen_fd"] >= 0 else None
        loop = warden.Warden(settings, Groups(keeper, enabled=enabled))
        # Every box is a fork of a fork of this process.
        hugepages.collapse_code()
        hugepages.collapse_heap()
        wire.send_command(
            keeper,
            {
                "kind": "ok",
                "pid": 1,
                "lacks": roots.features.missing(),
                "ids": chosen.kind,
                "cgroups": enabled,
            },
        )
        loop.run(socket.socket(fileno=config["owner_fd"]), listener)
    except OSError as error:
        trace = traceback.format_exc()
        failed = {"kind": "failed", "errno": error.errno or 0, "message": str(error), "trace": trace}
        wire.send_command(keeper, failed)
    except BaseException:  # noqa: BLE001 - a fork of the keeper must never run on as a second keeper
        traceback.print_exc()
    finally:
        os._exit(1)


def _report(ready_fd: int, answer: dict[str, Any]) -> None:
    os.write(ready_fd, json.dumps(answer).encode() + b"\n")
    os.close(ready_fd)


def _watch(warden_socket: socket.socket, pidfd: int, ends: tuple[int, ...], cgroups: Cgroups) -> None:
    """Makes control groups on demand until the warden or the user's process ends."""
    handles: dict[str, Any] = {}
    poll = select.poll()
    for fd in (warden_socket.fileno(), pidfd, *ends):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if pidfd in ready or ready.intersection(ends):
            return
        try:
            limits, _, _ = wire.receive_command(warden_socket)
        except (wire.Closed, ConnectionError):
            return
        name = f"group-{len(handles)}"
        try:
            handle = cgroups.create(name, CgroupLimits(**limits))
        except (OSError, KiboError) as error:
            number = error.errno if isinstance(error, OSError) else 0
            wire.send_command(warden_socket, {"kind": "failed", "errno": number or 1, "message": str(error)})
            continue
        handles[name] = handle
        # The warden reads by itself what the kernel counts; it could not open the file.
        counts = os.open(handle.oom_file or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        wire.send_command(warden_socket, {"kind": "ok", "name": name}, [*handle.attach_fds, counts])
        os.close(counts)


def _end(pidfd: int) -> None:
    """Ends the warden, and with it, by the kernel's hand, every process of every box. Returns when all are gone."""
    try:
        kernel.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def _clean(run: str, cgroups: Cgroups) -> None:
    while not cgroups.remove_session():
        # The kernel counts a process out of its group a moment after it has been reaped.
        select.select([], [], [], 0.01)
    import shutil  # late: it brings three compression libraries along, which every fork would pay for

    shutil.rmtree(run, ignore_errors=True)
    Path(f"{run}.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(_CONFIG))
