"""Ends applies that a crash cut short: all of one happens, or nothing, and what others wrote meanwhile stays.

An apply whose journal says that everything is staged is gone on with; if that would overwrite something that came
after the crash, it is taken back instead. Where even that meets a newer file, both versions are kept and named.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kibo.branch.hostdir.drift import inside
from kibo.branch.hostdir.frozen import Frozen, workspaces
from kibo.branch.hostdir.journal import Journal, Step, UnreadableJournal, journals, lock_path
from kibo.branch.hostdir.manifest import GONE, Manifest, Row
from kibo.branch.hostdir.places import Places
from kibo.branch.hostdir.steps import Raced, back, forward, identify, stage_of
from kibo.model.errors import NotFound
from kibo.runtime import kernel
from kibo.runtime.trees.removing import remove
from kibo.runtime.trees.stack import join, parent
from kibo.store.crash import point
from kibo.store.locking import holding_if_free

Outcome = Literal["completed", "taken back", "waiting", "unreadable"]
#: Above this many directories, one flush of the file system costs less than one of each.
_FLUSHED_SINGLY: Final = 64


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one interrupted apply.

    Attributes:
        host: The host directory; of an unreadable one, where its journal lies now.
        outcome: ``completed``, ``taken back``, ``waiting`` where the host directory is not there now, or cannot be
            written, or ``unreadable`` where the journal is none: it was set aside as it is, and so was nothing else.
        kept: Paths of copies, beside what they are versions of, that were kept because somebody had written since.
    """

    host: Path
    outcome: Outcome
    kept: tuple[bytes, ...] = ()


def recover(home: Path) -> list[Recovered]:
    """Ends every apply that was cut short. Call it when a process starts to use a state directory.

    One that is under way in another process is left to it; what waits is ended by a later call. Where there is none it
    costs one look.
    """
    found = []
    for directory in journals(home):
        try:
            journal = Journal.read(directory)
        except UnreadableJournal:
            found.append(Recovered(_set_aside(home, directory), "unreadable"))
            continue
        if journal is None:
            continue  # ended at this moment
        with holding_if_free(lock_path(home, journal.device, journal.inode)) as free:
            if not free or not directory.exists():
                continue
            try:
                found.append(_recover(home, directory))
            except OSError:
                found.append(Recovered(Path(journal.host), "waiting"))
    return found


def recover_host(home: Path, device: int, inode: int) -> list[Recovered]:
    """Ends what was cut short at one host directory. The caller holds its lock."""
    found = []
    for directory in journals(home):
        try:
            journal = Journal.read(directory)
        except UnreadableJournal:
            continue  # whoever opens the state directory next is told of it
        if journal is not None and (journal.device, journal.inode) == (device, inode):
            found.append(_recover(home, directory))
    return found


def _set_aside(home: Path, directory: Path) -> Path:
    """Moves a journal that is none to where nobody looks for one. Returns where it is now."""
    aside = workspaces(home) / "unreadable" / directory.name
    try:
        aside.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(directory, aside)
    except OSError:
        return directory  # it is told of again
    return aside


def _recover(home: Path, directory: Path) -> Recovered:
    journal = Journal.read(directory)
    assert journal is not None
    host = Path(journal.host)
    try:
        places = Places(host)
    except OSError:
        return Recovered(host, "waiting")
    with places:
        info = os.fstat(places.root)
        if (info.st_dev, info.st_ino) != (journal.device, journal.inode):
            return Recovered(host, "waiting")
        if journal.done or not journal.staged:
            outcome: Outcome = "completed" if journal.done else "taken back"
            end(journal, places)
            return Recovered(host, outcome)
        try:
            manifest = Frozen.load(home, journal.frozen).manifest()
        except NotFound:
            manifest = None
        try:
            return _go_on(journal, host, places, manifest)
        finally:
            if manifest is not None:
                manifest.close()


def _go_on(journal: Journal, host: Path, places: Places, manifest: Manifest | None) -> Recovered:
    stages = [(step, _stage(places, step)) for step in journal.steps]
    kept: list[bytes] = []
    try:
        if any(stage == "foreign" for _, stage in stages):
            raise Raced(b"")
        for step, stage in stages:
            if stage == "pending":
                forward(places, step, _recheck(manifest, step))
                point("recover.step")
    except (Raced, OSError):
        kept = take_back(places, journal)
        journal.cancel()
        end(journal, places)
        return Recovered(host, "taken back", tuple(kept))
    settle(journal, places, manifest)
    conclude(journal, places)
    return Recovered(host, "completed")


def _stage(places: Places, step: Step) -> str:
    try:
        return stage_of(places, step)
    except OSError:
        return "foreign"  # a directory above it is gone


def _recheck(manifest: Manifest | None, step: Step) -> Callable[[int, bytes], bool]:
    def unchanged(fd: int, name: bytes) -> bool:
        return manifest is None or next(inside(manifest, fd, step.place, name), None) is None

    return unchanged


def settle(journal: Journal, places: Places, manifest: Manifest | None) -> None:
    """Makes steps that are all done durable, and moves the manifest on."""
    flush_parents(places, [step.place for step in journal.steps])
    point("apply.renamed")
    if manifest is not None:
        manifest.advance(row for step in journal.steps for row in rows_at(places, step.place, manifest))
    point("apply.advanced")


def conclude(journal: Journal, places: Places) -> None:
    """Removes what an apply that has happened put aside."""
    try:
        journal.finish()
    except OSError:
        return  # a failing disk: it has happened all the same, and the next call of `recover` cleans up
    point("apply.finished")
    end(journal, places)
    point("apply.ended")


def take_back(places: Places, journal: Journal) -> list[bytes]:
    """Undoes every step that was done. Returns the copies that it kept of what others wrote in between."""
    kept = []
    for step in reversed(journal.steps):
        stage = _stage(places, step)
        if stage in ("done", "edited"):
            if stage == "edited" and step.new is None:
                continue  # something new is where the old was removed: the old one is kept, below
            back(places, step)
            if stage == "edited":
                kept.append(_keep(places, step))
            point("apply.undone")
    for step in journal.steps:
        kept += _keep_old(places, step)
    flush_parents(places, [step.place for step in journal.steps])
    return kept


def _keep_old(places: Places, step: Step) -> list[bytes]:
    """Keeps what was there before under a name of its own, where something else has taken its place since."""
    try:
        fd = places.directory(parent(step.place))
    except OSError:
        return []
    hidden = None if step.look is not None else identify(fd, step.hidden)
    if hidden is not None and hidden.same_file(step.old):
        return [_keep(places, step)]
    return []


def _keep(places: Places, step: Step) -> bytes:
    fd, name = places.directory(parent(step.place)), step.place.rpartition(b"/")[2]
    copy = name[:200] + b".kibo-kept-" + secrets.token_hex(4).encode()
    os.rename(step.hidden, copy, src_dir_fd=fd, dst_dir_fd=fd)
    return join(parent(step.place), copy)


def end(journal: Journal, places: Places | None) -> None:
    """Removes the hidden names of an apply, and its journal. What cannot be removed now stays with the journal."""
    left = False
    for step in journal.steps if places is not None else ():
        assert places is not None
        try:
            fd = places.directory(parent(step.place))
            for name in (step.hidden, step.second):
                remove(fd, name)
        except FileNotFoundError:
            continue
        except OSError:
            left = True  # the next call of `recover` tries again
        point("apply.cleaning")
    if left or not journal.directory.exists():
        return
    try:
        journal.remove()
    except OSError:
        return  # a full disk, say: nothing is left on the host, and the next call of `recover` removes it


def rows_at(places: Places, path: bytes, manifest: Manifest) -> Iterator[tuple[bytes, Row]]:
    """Yields what the manifest must say of a path after an apply, and of everything that is or was below it."""
    gone = dict.fromkeys([path, *(below for below, _ in manifest.below(path))], GONE)
    info = places.look(path)
    if info is not None:
        was = manifest.find(path)
        if stat.S_ISDIR(info.st_mode) and was is not None and was.mode and stat.S_ISDIR(was.mode):
            yield path, Row.of(info)
            return
        for below, row in _tree(places, path, info):
            gone.pop(below, None)
            yield below, row
    yield from gone.items()


def _tree(places: Places, path: bytes, info: os.stat_result) -> Iterator[tuple[bytes, Row]]:
    pending = [(path, info)]
    while pending:
        where, found = pending.pop()
        yield where, Row.of(found)
        if stat.S_ISDIR(found.st_mode):
            fd = places.directory(where)
            for name in map(os.fsencode, os.listdir(fd)):
                pending.append((join(where, name), os.lstat(name, dir_fd=fd)))


def flush_parents(places: Places, paths: list[bytes]) -> None:
    """Waits until the names in the directories of paths are on the disk."""
    parents = {parent(path) for path in paths}
    if len(parents) > _FLUSHED_SINGLY:
        devices = {os.fstat(fd).st_dev: fd for fd in map(places.directory, sorted(parents))}
        for fd in devices.values():
            kernel.syncfs(fd)
        return
    for directory in parents:
        os.fsync(places.directory(directory))
