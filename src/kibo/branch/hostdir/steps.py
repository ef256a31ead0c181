"""One step of an apply, forward and back. Each is one rename or one change of mode, and can be told from outside.

A step that replaces exchanges the staged name with the real one, so that what was there is still there, under the
hidden name, until the whole apply is done. Source: renameat2(2).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final, Literal

from kibo.branch.hostdir.journal import Identity, Step
from kibo.branch.hostdir.places import Places, place
from kibo.runtime import kernel
from kibo.runtime.trees import attributes
from kibo.runtime.trees.stack import parent

#: Where a step is: nothing done; done; or others changed something of it in between.
Stage = Literal["pending", "done", "edited", "foreign"]
_NO_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Raced(Exception):
    """Another process changed a path between the check and the step; the step was taken back."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


def identify(fd: int, name: bytes) -> Identity | None:
    """Returns what is at a name, or None."""
    try:
        return Identity.of(os.lstat(name, dir_fd=fd))
    except FileNotFoundError:
        return None


def stage_of(places: Places, step: Step) -> Stage:
    """Tells from the host how far a step is.

    ``edited`` is a step that was done, after which somebody wrote the new file in place; ``foreign`` one where
    somebody put something else at the path.
    """
    fd, name = places.directory(parent(step.place)), step.place.rpartition(b"/")[2]
    if step.look is not None:
        return _look_stage(fd, name, step)
    _mend(fd, name, step)
    here, hidden = identify(fd, name), identify(fd, step.hidden)
    if step.new is None:
        if hidden is not None and hidden.same_file(step.old):
            return "done" if here is None else "edited"
        return "pending" if here == step.old else "foreign"
    if here is not None and here.same_file(step.new):
        return "done" if here == step.new else "edited"
    if hidden is not None and hidden.same_file(step.new):
        return "pending" if here == step.old else "foreign"
    return "foreign"


def _look_stage(fd: int, name: bytes, step: Step) -> Stage:
    assert step.look is not None
    here = identify(fd, name)
    if here is None or not here.same_file(step.old):
        return "foreign"
    now = _look(fd, name)
    if now == (step.look[2], step.look[3]):
        return "done"
    return "pending" if now == (step.look[0], step.look[1]) else "foreign"


def _mend(fd: int, name: bytes, step: Step) -> None:
    """Ends an exchange of three renames that was cut short."""
    if step.new is None or identify(fd, step.second) is None:
        return
    if identify(fd, name) is None:
        os.rename(step.second, name, src_dir_fd=fd, dst_dir_fd=fd)
    elif identify(fd, step.hidden) is None:
        os.rename(step.second, step.hidden, src_dir_fd=fd, dst_dir_fd=fd)


def forward(places: Places, step: Step, recheck: Callable[[int, bytes], bool]) -> None:
    """Does a step.

    Args:
        places: The host.
        step: The step, pending.
        recheck: Says whether a directory that was moved aside, given its parent and hidden name, still holds what
            was expected: nobody can add to it unseen any more.

    Raises:
        Raced: What was there is not what was expected; nothing has changed.
        OSError: The host refused; nothing has changed.
    """
    directory = parent(step.place)
    fd, name = places.directory(directory), step.place.rpartition(b"/")[2]
    if not places.still(directory, fd) or identify(fd, name) != step.old:
        raise Raced(step.place)
    if step.look is not None:
        _write_look(fd, name, step, step.look[2], step.look[3])
    elif step.old is None:
        try:
            _rename(fd, step.hidden, name)
        except FileExistsError:
            raise Raced(step.place) from None
    else:
        if step.new is None:
            _rename(fd, name, step.hidden)
        else:
            _exchange(fd, step.hidden, name, step.second)
        whole = identify(fd, step.hidden) == step.old
        if not whole or (step.old.mode == stat.S_IFDIR and not recheck(fd, step.hidden)):
            back(places, step)
            raise Raced(step.place)


def back(places: Places, step: Step) -> None:
    """Takes a step back that was done."""
    fd, name = places.directory(parent(step.place)), step.place.rpartition(b"/")[2]
    if step.look is not None:
        _write_look(fd, name, step, step.look[0], step.look[1])
    elif step.old is None:
        _rename(fd, name, step.hidden)
    elif step.new is None:
        _rename(fd, step.hidden, name)
    else:
        _exchange(fd, step.hidden, name, step.second)


def _rename(fd: int, old: bytes, new: bytes) -> None:
    """Renames to a name that is free."""
    try:
        kernel.renameat2(fd, old, fd, new, kernel.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        if identify(fd, new) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
        os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)


def _exchange(fd: int, hidden: bytes, name: bytes, second: bytes) -> None:
    try:
        kernel.renameat2(fd, hidden, fd, name, kernel.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        os.rename(name, second, src_dir_fd=fd, dst_dir_fd=fd)
        os.rename(hidden, name, src_dir_fd=fd, dst_dir_fd=fd)
        os.rename(second, hidden, src_dir_fd=fd, dst_dir_fd=fd)


def look_of(fd: int, name: bytes) -> tuple[int, dict[str, str]]:
    """Reads mode and attributes of a name, the values in hex."""
    return _look(fd, name)


def _look(fd: int, name: bytes) -> tuple[int, dict[str, str]]:
    opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        itself = place(opened, b"").rstrip(b"/")
        own = attributes.seen_through(itself)
        return stat.S_IMODE(os.fstat(opened).st_mode), {key: value.hex() for key, value in own.items()}
    finally:
        os.close(opened)


def _write_look(fd: int, name: bytes, step: Step, mode: int, own: dict[str, str]) -> None:
    opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if not Identity.of(os.fstat(opened)).same_file(step.old):
            raise Raced(step.place)
        itself = place(opened, b"").rstrip(b"/")
        # Attributes need the right to write, which the new mode may take; the old mode may be the one without it.
        if _look(fd, name)[1] != own:
            os.chmod(itself, mode | 0o200)
            attributes.write_through(itself, {key: bytes.fromhex(value) for key, value in own.items()})
        os.chmod(itself, mode)
    finally:
        os.close(opened)
