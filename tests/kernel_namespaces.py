"""Whether namespaces live on anywhere in the kernel, whoever holds them: a process, a descriptor, or a mount.

A namespace's file handle carries its number, which the kernel gives once and never again, and opening it asks the
kernel's own table of those that live (Linux 6.18, as root). Elsewhere every process of the machine is looked at, as
lsns(8) does. Source: name_to_handle_at(2), fs/nsfs.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_FD_NSFS_ROOT = -10003
_AT_FDCWD = -100
_AT_SYMLINK_FOLLOW = 0x400
_libc = ctypes.CDLL(None, use_errno=True)


class _Handle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))


@dataclass(frozen=True)
class Namespace:
    """One namespace.

    Attributes:
        name: As its link in /proc has it, such as ``net:[4026532000]``; used again once it has ended.
        handle: The kernel's own number of it, in its file handle; empty where the kernel gives none.
    """

    name: str
    handle: bytes = b""


def of_processes(pids: Iterable[int]) -> set[Namespace]:
    """Lists the namespaces of processes that are not this process's own."""
    own = set(_of_process("self"))
    return {found for pid in pids for found in _of_process(str(pid))} - own


def alive(namespaces: Iterable[Namespace]) -> list[str]:
    """Names those that live on anywhere in the kernel."""
    namespaces = list(namespaces)
    held: set[str] | None = None
    found = []
    for namespace in namespaces:
        if namespace.handle and can_ask_kernel():
            lives = _opens(namespace.handle)
        else:
            held = _held_anywhere() if held is None else held
            lives = namespace.name in held
        if lives:
            found.append(namespace.name)
    return found


@lru_cache(maxsize=1)
def can_ask_kernel() -> bool:
    """Whether this kernel tells by a handle whether a namespace lives, and tells this user."""
    own = _handle("/proc/self/ns/uts")
    return bool(own) and _opens(own)


def _of_process(pid: str) -> list[Namespace]:
    found = []
    for kind in KINDS:
        path = f"/proc/{pid}/ns/{kind}"
        try:
            found.append(Namespace(os.readlink(path), _handle(path)))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked, or is another user's
    return found


def _handle(path: str) -> bytes:
    handle, mount = _Handle(size=128), ctypes.c_int()
    if _libc.name_to_handle_at(
        _AT_FDCWD, path.encode(), ctypes.byref(handle), ctypes.byref(mount), _AT_SYMLINK_FOLLOW
    ):
        if ctypes.get_errno() == errno.ENOENT:
            raise FileNotFoundError(path)
        return b""  # a kernel whose namespaces have no handles
    return bytes(handle)[: 8 + handle.size]


def _opens(data: bytes) -> bool:
    fd = _libc.open_by_handle_at(
        _FD_NSFS_ROOT, ctypes.create_string_buffer(data, len(data)), os.O_RDONLY | os.O_CLOEXEC
    )
    if fd < 0:
        return False
    os.close(fd)
    return True


def _held_anywhere() -> set[str]:
    """Names every namespace that a process, a descriptor or a mount of this machine holds, as far as we may look."""
    found: set[str] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        for folder in (f"/proc/{entry}/ns", f"/proc/{entry}/fd"):
            try:
                names = os.listdir(folder)
            except OSError:
                continue  # it ended, or is another user's
            for name in names:
                try:
                    found.add(os.readlink(f"{folder}/{name}"))
                except OSError:
                    continue
        try:
            lines = Path(f"/proc/{entry}/mountinfo").read_text().splitlines()
        except OSError:
            continue
        found.update(line.split()[3] for line in lines if " - nsfs " in line)
    return found
