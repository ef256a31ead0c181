"""What goes with the process that had it made, however that ends: layers on disk that nobody sealed, and trees of
branches that are a box's own, or of messages between instances that are in none.

An owner is a process and a state directory. All its layers begin with the same digits; a lock of that name says that it
lives. Layers that a snapshot names belong to the history, and go when that lets them go; those that a frozen workspace
names go with that, see `unnamed`. Such trees are aborted by whoever opens the history next.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.branch.retention import Collected
from kibo.branch.unnamed import Unnamed
from kibo.branch.worlds import names
from kibo.model.errors import BranchClosed, BranchUnknown
from kibo.model.ids import DeltaId
from kibo.runtime.layers.temporary import remove_tree
from kibo.runtime.trees.flatten import PARTS
from kibo.store.crash import point
from kibo.store.locking import claim, release, try_lock

_SUFFIX: Final = ".deltas"


class Owner:
    """This process as the owner of layers.

    Args:
        home: The state directory.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        while True:
            self._first = DeltaId.new()
            self._lock = home / "run" / f"{_digits(self._first)}{_SUFFIX}"
            fd = try_lock(self._lock)
            if fd is not None:
                self._fd = claim(fd)
                os.write(fd, b"%d\n" % os.getpid())
                return

    @property
    def name(self) -> str:
        """By which others find out whether this process lives; see `lives`."""
        return _digits(self._first)

    def lives(self, name: str) -> bool:
        """Tells whether an owner of the same state directory lives."""
        return lives(self._home, name)

    def new(self) -> DeltaId:
        """Names a layer that this process will have written."""
        return self._first.beside()

    def takes_along(self, branch: str) -> None:
        """Notes, before a tree is begun, that it ends with this process."""
        os.write(self._fd, b"!%b\n" % branch.encode())
        point("tree.noted")

    def begin(self, branch: str) -> None:
        """Notes, for other processes, that this one runs a branch and what is forked from it here."""
        os.write(self._fd, b"+%b\n" % branch.encode())

    def end(self, branch: str) -> None:
        """Notes that it runs it no more. Idempotent."""
        os.write(self._fd, b"-%b\n" % branch.encode())

    def close(self, history: History) -> None:
        """Removes what nobody sealed. Nothing writes to it any more."""
        if _of(self._home, self._lock):
            _remove(self._home, self._lock, history)
        else:
            _end_trees(self._lock, history)
            self._lock.unlink(missing_ok=True)
        release(self._fd)


def lives(home: Path, name: str) -> bool:
    """Tells whether an owner lives, by its name; whatever is no name is nobody's."""
    return name.isalnum() and _lives(home / "run" / f"{name}{_SUFFIX}")


def running(home: Path) -> dict[str, int]:
    """Returns the branches that living processes have begun or checked out, with the process's number of each.

    What is forked from such a branch runs in the same process; it is not listed.
    """
    found: dict[str, int] = {}
    for lock in (home / "run").glob(f"*{_SUFFIX}"):
        pid, *notes = _living_notes(lock)
        for note in notes:
            if note[0] == "+":
                found[note[1:]] = int(pid)
            elif note[0] == "-":
                found.pop(note[1:], None)
    return found


def _living_notes(lock: Path) -> list[str]:
    """Reads what an owner has noted; only the end of all notes where it has ended."""
    return _notes(lock) if _lives(lock) and lock.exists() else ["0"]


def _notes(lock: Path) -> list[str]:
    # A note that is being written has no end of line yet.
    return lock.read_text().rpartition("\n")[0].split("\n")


def _end_trees(lock: Path, history: History) -> None:
    """Aborts the trees that end with the owner whose lock is held here."""
    for note in _notes(lock) if lock.exists() else ():  # a state directory may be removed under its processes
        if note[:1] == "!":
            with suppress(BranchUnknown, BranchClosed):  # it was never begun, or has ended
                history.abort(note[1:])


def _lives(lock: Path) -> bool:
    """Tells whether anybody holds an owner's lock."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def sweep(home: Path, history: History) -> bool:
    """Removes the layers that nobody sealed of owners that have ended, and says whether there were any such owners.
    Where there are none it costs one look.

    Where the world of a snapshot cannot be read, so that nobody can tell what it names, everything stays.
    """
    found = False
    for lock in sorted((home / "run").glob(f"*{_SUFFIX}")):
        fd = try_lock(lock)
        if fd is not None:
            found = True
            _remove(home, lock, history)
            os.close(fd)
    return found


def collect(home: Path, history: History, keep: Retention, *, unused_s: float) -> Collected:
    """Removes what retention no longer keeps: branches, snapshots, and all on disk that is left without a name.

    Args:
        home: The state directory.
        history: What says which branches and snapshots there are.
        keep: What to leave of them.
        unused_s: How long ago, in seconds, a host directory must have been frozen last for its newest freeze, from
            which the next would begin, to go as well. 0 takes all.

    Returns:
        What was removed; its resources are layers and frozen workspaces.
    """
    layers, living = os.listdir(home / "deltas"), _living(home)
    done = history.collect(keep, names=names)
    found = Unnamed(home, history, _ownerless(layers, living, done.resources))
    removed = found.remove(unused_s)
    point("sweep.before_forgetting")
    history.released([name for name in done.resources if not found.place(name).exists()])
    return replace(done, resources=removed)


def foreseen(home: Path, history: History, keep: Retention, *, unused_s: float) -> Collected:
    """Returns what `collect` would remove now, entries not counted. Removes nothing."""
    layers, living = os.listdir(home / "deltas"), _living(home)
    done = history.foreseen(keep, names=names)
    found = Unnamed(home, history, _ownerless(layers, living, done.resources))
    return replace(done, resources=found.foreseen(done.resources, unused_s))


def _ownerless(layers: Iterable[str], living: Collection[str], told: Collection[str]) -> set[str]:
    """Returns the layers that no living owner may be about to seal: what was sealed and let go of is its no more."""
    return {name for name in layers if _digits(name) not in living or name in told}


def _remove(home: Path, lock: Path, history: History) -> None:
    """Removes what nobody sealed of an owner whose lock is held here, and what freezes left; then its lock."""
    _end_trees(lock, history)
    layers = _of(home, lock)
    found = Unnamed(home, history, layers)
    gone = found.remove()
    if found.unreadable:
        return  # the next sweep looks again
    for name in set(layers).difference(gone):
        for _, work in PARTS:
            # Nobody writes to it any more; with mode 0 as overlayfs makes it, it would withstand `rm -r`.
            remove_tree(found.place(name) / work)
    point("sweep.before_unlocking")
    lock.unlink(missing_ok=True)


def _of(home: Path, lock: Path) -> list[str]:
    """Lists the layers of the owner that has a lock."""
    mine = lock.name.removesuffix(_SUFFIX)
    return [name for name in os.listdir(home / "deltas") if _digits(name) == mine]


def _living(home: Path) -> set[str]:
    """Returns the digits with which the layers of living owners begin."""
    found = set()
    for lock in (home / "run").glob(f"*{_SUFFIX}"):
        if _lives(lock):
            found.add(lock.name.removesuffix(_SUFFIX))
    return found


def _digits(name: str) -> str:
    return name.removeprefix(DeltaId.prefix)[: DeltaId.owner_digits]
