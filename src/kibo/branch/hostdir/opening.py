"""Opens a directory that is to be a workspace, and refuses those that nobody can mean."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from kibo.model.errors import FileMissing, InvalidInput, KiboError, PathTooLong, WorkspaceUnreadable


def open_workspace(named: str | os.PathLike[str], home: Path) -> tuple[Path, int]:
    """Opens a host directory.

    Args:
        named: The directory, as the caller names it.
        home: The state directory.

    Returns:
        Its path, absolute and without links, and a descriptor of it, which is the caller's to close.

    Raises:
        FileMissing: There is no such directory.
        InvalidInput: It is no directory, or one that holds what no box should see or an apply write: the whole file
            system, this user's home directory, or the state directory's own files.
        WorkspaceUnreadable: It cannot be read by this user.
        PathTooLong: Its path is longer than the kernel takes one.
    """
    text = os.fsdecode(named)
    if not text or "\0" in text:
        raise InvalidInput(
            f"{text!r} names no directory",
            hint="name a directory, the current one as '.'",
            details={"path": text},
        )
    host = Path(os.path.realpath(text))
    try:
        fd = os.open(host, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(host, error) from None
    try:
        _check(host, os.fstat(fd), home)
    except BaseException:
        os.close(fd)
        raise
    return host, fd


def _refused(host: Path, error: OSError) -> KiboError:
    shown = {"path": str(host)}
    if error.errno == errno.ENOENT:
        return FileMissing(
            f"there is no directory {host}", hint="name a directory that exists", details=shown
        )
    if error.errno == errno.ENOTDIR:
        hint = "name a directory; a single file goes into Env.files"
        return InvalidInput(f"{host} is no directory", hint=hint, details=shown)
    if error.errno == errno.ELOOP:
        hint = "name the directory itself"
        return InvalidInput(f"{host} is a link that leads back to itself", hint=hint, details=shown)
    if error.errno == errno.ENAMETOOLONG:
        hint = "change into a directory near it, and name it from there"
        return PathTooLong(f"the path of {host.name[:80]!r} is too long", hint=hint, details=shown)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "make it readable (`chmod u+rx`), or run as its owner"
        return WorkspaceUnreadable(f"{host} cannot be read by this user", hint=hint, details=shown)
    hint = "see whether the disk or server that it is on answers, and name a directory that can be opened"
    return InvalidInput(f"{host} cannot be opened: {error.strerror}", hint=hint, details=shown)


def _check(host: Path, info: os.stat_result, home: Path) -> None:
    """Refuses what is much more than a project: a mistake that would cost hours, and secrets."""
    shown = {"path": str(host)}
    hint = "name the directory of one project"
    if host == host.parent:
        raise InvalidInput("/ is no workspace: it is the whole file system", hint=hint, details=shown)
    for place in _homes():
        if _same(place, info):
            raise InvalidInput(
                f"{host} is no workspace: it is, or holds, a home directory", hint=hint, details=shown
            )
    if any(_same(each, os.stat(home)) for each in (host, *host.parents)):
        raise InvalidInput(
            f"{host} is no workspace: it lies in Kibo's state directory {home}",
            hint="name a directory outside of it; `kibo checkout --to` writes out what a branch has",
            details=shown,
        )


def _homes() -> Iterator[Path]:
    """This user's home directory, as the environment has it and as the system has it; the latter with all above it.

    A project may well hold what a tool of its own calls home.
    """
    yield Path(os.path.expanduser("~"))
    try:
        known = Path(os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir))
    except KeyError:
        return
    yield from (known, *known.parents)


def _same(path: Path, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), info)
    except OSError:
        return False
