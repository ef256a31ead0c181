"""Tries, in a process of its own, what a box is made of; prints what failed as JSON.

Reading version numbers tells little: a container, a security module or a setting may forbid what the kernel
can do. So each thing is done once, in namespaces that end with the process. Run by `host.py` as a program,
because its own process may have threads, which a fork would leave behind in any state.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable

from kibo.runtime import idmap, kernel, oldermounts, seccomp
from kibo.runtime.overlaytrial import make_parts, try_upper

_NAMESPACES = {
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "network": kernel.CLONE_NEWNET,
}


def _attempt(action: Callable[[], object]) -> str:
    """Returns nothing when an action works, else what the kernel said."""
    try:
        action()
    except (OSError, AttributeError, KeyError) as error:
        return str(error)
    return ""


def _child(flags: int) -> str:
    """Starts and ends an empty child in new namespaces."""

    def start() -> None:
        pid = kernel.clone(flags)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return _attempt(start)


def _tmpfs() -> int:
    context = kernel.fsopen("tmpfs")
    kernel.fsconfig_create(context)
    fd = kernel.fsmount(context)
    os.close(context)
    return fd


def _memory_overlay() -> None:
    fd = _tmpfs()
    # Older kernels lay no overlay on what has no place. Nothing that is tried after this is there.
    kernel.move_mount(fd, "/dev")
    make_parts(fd)
    try_upper(f"/proc/self/fd/{fd}")


def _state_overlay(state_fd: int) -> None:
    make_parts(state_fd)
    try_upper(f"/proc/self/fd/{state_fd}")


def _proc() -> None:
    context = kernel.fsopen("proc")
    kernel.fsconfig_create(context)
    kernel.fsmount(context)


def _thread_id_address() -> None:
    kernel.prctl(kernel.PR_GET_TID_ADDRESS, ctypes.addressof(ctypes.c_ulong()))


def _notification() -> None:
    seccomp.install(seccomp.compile_filter(), listener=True)


def _held_process() -> None:
    # The change of ids above has taken it away, and a guest's is given back to it.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        kernel.ptrace_seize(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _inside(state: str) -> dict[str, str]:
    """What the first process of a box's namespaces tries."""
    # Opened in this mount namespace, which an overlay asks for, and before the change of ids below,
    # after which folders above it may be closed to us.
    state_fd = os.open(state, os.O_RDONLY | os.O_DIRECTORY) if state else -1
    if os.getuid() != 0:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    failures = {
        "mount_api": _attempt(lambda: os.close(_tmpfs())),
        "overlay": _attempt(_memory_overlay),
        "proc": _attempt(_proc),
    }
    missing = oldermounts.try_features().missing()
    failures["newest_mounts"] = f"not in this kernel: {', '.join(missing)}" if missing else ""
    if state_fd >= 0:
        failures["state_overlay"] = _attempt(lambda: _state_overlay(state_fd))
    failures["ptrace"] = _attempt(_held_process)
    failures["seccomp"] = _attempt(_notification)
    return failures


def _idmapped_mount(pid: int) -> None:
    tree = kernel.open_tree(kernel.AT_FDCWD, "/usr", kernel.OPEN_TREE_CLONE)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace)


def _boxed(state: str) -> dict[str, str]:
    """Makes namespaces as a box has, maps ids, and lets their first process try."""
    answers, answer = os.pipe()
    waits, go = os.pipe()
    pid = kernel.clone(kernel.CLONE_NEWUSER | sum(_NAMESPACES.values()))
    if pid == 0:
        os.close(go)
        if os.read(waits, 1):
            os.write(answer, json.dumps(_inside(state)).encode())
        os._exit(0)
    os.close(answer)
    failures = {
        "id_map": _attempt(lambda: idmap.write_maps(pid, idmap.choose_map())),
        "idmapped_mounts": _attempt(lambda: _idmapped_mount(pid)),
    }
    if not failures["id_map"]:
        os.write(go, b"g")
    os.close(go)
    with os.fdopen(answers) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return failures | (json.loads(text) if text else {})


def main() -> None:
    """Tries everything. Takes an empty folder on the state's file system, or nothing."""
    state = sys.argv[1]
    failures = {
        "user_namespace": _child(kernel.CLONE_NEWUSER),
        "pidfd": _attempt(lambda: os.close(kernel.pidfd_open(os.getpid()))),
        "thread_id": _attempt(_thread_id_address),
    }
    if not failures["user_namespace"]:
        for name, flag in _NAMESPACES.items():
            failures[f"{name}_namespace"] = _child(kernel.CLONE_NEWUSER | flag)
        failures["box"] = _attempt(lambda: failures.update(_boxed(state)))
    landlock = 0
    try:
        landlock = kernel.landlock_create_ruleset(b"", 1)
    except OSError as error:
        failures["landlock"] = str(error)
    print(json.dumps({"failures": failures, "landlock": landlock}))


if __name__ == "__main__":
    main()
