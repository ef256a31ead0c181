"""The workspaces of a snapshot as plain directories: what its instances see at ``/work``, for people and programs."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from urllib.parse import quote

from kibo.branch.deltas import Deltas
from kibo.branch.destinations import free_place, taken
from kibo.branch.hostdir.frozen import PLACE
from kibo.branch.hostdir.places import Places
from kibo.branch.hostdir.refusing import on_host
from kibo.branch.hostdir.staging import Staging
from kibo.branch.worlds import InstanceWorld, World
from kibo.model.errors import InvalidInput
from kibo.model.ids import RandomId
from kibo.runtime import kernel
from kibo.runtime.trees.removing import remove


class WrittenId(RandomId):
    """One directory while it is written."""

    __slots__ = ()
    prefix = "written_"


def write_workspaces(deltas: Deltas, world: World, to: Path) -> tuple[dict[str, Path], tuple[bytes, ...]]:
    """Writes workspaces into a new directory, which appears whole or not at all.

    Modes, times, attributes, links and holes are kept, set-id bits and owners are not.

    Args:
        deltas: Their files.
        world: The instances.
        to: The directory. It is the workspace where one instance has any files in it, and has one directory for each
            where several have.

    Returns:
        Where each instance's workspace is; and paths of sockets and devices, which were left out.

    Raises:
        InvalidInput: Something is there already, or no workspace has a file.
        FileMissing: There is no directory to make it in.
        HostDiskFull: There is no room.
        Denied: This user may not write there.
    """
    to = free_place(to, "directory")
    filled = {name: each for name, each in world.items() if _has_files(deltas, each)}
    if not filled:
        raise InvalidInput(
            "no instance has a file in its workspace",
            hint="`kibo diff` lists what it has.",
            details={"instances": sorted(world)},
        )
    hidden = os.fsencode(f".{WrittenId.new()}")
    with on_host(to.parent, "opened", "nothing was written"):
        places = Places(os.path.realpath(to.parent))
    fd = places.root
    staging = Staging(places)
    try:
        with on_host(to, outcome="nothing was kept"):
            written = _write(staging, deltas, filled, fd, hidden)
            staging.flush()
            _rename(fd, hidden, to)
            os.fsync(fd)
    except BaseException:
        remove(fd, hidden)
        raise
    finally:
        staging.close()
        places.close()
    return {name: to / place for name, place in written.items()}, tuple(staging.dropped)


def _has_files(deltas: Deltas, world: InstanceWorld) -> bool:
    with deltas.root(world) as stack:
        work = stack.find(PLACE.encode())
        return work is not None and work.kind == "directory" and next(work.children(), None) is not None


def _write(staging: Staging, deltas: Deltas, filled: World, fd: int, hidden: bytes) -> dict[str, str]:
    if len(filled) == 1:
        ((name, world),) = filled.items()
        _put(staging, deltas, world, b"", hidden)
        return {name: ""}
    os.mkdir(hidden, 0o755, dir_fd=fd)
    written = {}
    for name, world in filled.items():
        written[name] = _place(name)
        _put(staging, deltas, world, hidden, os.fsencode(written[name]))
    return written


def _put(staging: Staging, deltas: Deltas, world: InstanceWorld, directory: bytes, name: bytes) -> None:
    with deltas.root(world) as stack:
        work = stack.find(PLACE.encode())
        assert work is not None
        staging.put(directory, name, work, None)


def _place(name: str) -> str:
    """A directory's name that leads nowhere else; different for different instances."""
    written = quote(name, safe=" +@")
    return written.replace(".", "%2E") if not written.strip(".") else written


def _rename(fd: int, hidden: bytes, to: Path) -> None:
    try:
        kernel.renameat2(fd, hidden, fd, os.fsencode(to.name), kernel.RENAME_NOREPLACE)
    except FileExistsError:
        raise taken(to, "directory") from None
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # A file system without it: what has appeared meanwhile is refused unless it is an empty directory.
        with contextlib.suppress(FileNotFoundError):
            os.lstat(to)
            raise taken(to, "directory") from None
        os.rename(hidden, to.name, src_dir_fd=fd, dst_dir_fd=fd)
