"""Puts the parts of branches together, for plain programs; loaded by the first that has a branch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kibo.box.define import Box
from kibo.branch.branch import Branch
from kibo.branch.family import Family
from kibo.branch.running import RunningBranch
from kibo.runtime.egress import Tape
from kibo.runtime.instance import Instance
from kibo.runtime.states import Progress, State, States
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import Runtime, runtime


def branch(
    goal: str = "",
    *,
    name: str = "main",
    record: bool | str = False,
    replay: str | os.PathLike[str] | None = None,
) -> Branch:
    """Begins a tree of branches.

    Args:
        goal: What it is for.
        name: What to call its root.
        record: Whether to record what boxes in it ask servers for, and what they get, ``launch()`` and ``resume()``
            included; or a name for the recording, which replaces one that has it. It is there once the tree has ended.
        replay: The name of a recording, or the path of an exported one, that answers in place of servers.

    Returns:
        The root. Use it as a context manager, which ends what runs in the tree.

    Raises:
        StoreUnavailable: The history cannot be opened.
        InvalidInput: The name has no form.
        RecordingUnknown, RecordingInvalid: There is no recording to replay, or it is damaged.
    """
    home = runtime()
    with taped(home, record, replay) as tape:
        family = new_family(home, tape)
        root: Branch = RunningBranch(family, home.records().history.create(goal, name), None, {}).face
        return root


@contextmanager
def taped(home: Runtime, record: bool | str, replay: str | os.PathLike[str] | None) -> Iterator[Tape | None]:
    """Begins a recording or a replay of a tree, which is dropped where a block fails; gives None where neither is asked
    for.
    """
    tape = None
    if record or replay is not None:
        from kibo.wiring.tapes import begin  # late: few record

        tape = begin(home, record, replay)
    try:
        yield tape
    except BaseException:
        if tape is not None:
            tape.drop()
        raise


def passing_branch(goal: str, name: str) -> Branch:
    """Begins a tree that is a box's own: nothing of it is left once this process has ended, however that ends."""
    home = runtime()
    made: Branch = RunningBranch(new_family(home), home.records().passing(goal, name), None, {}).face
    return made


def checkout(
    ref: str,
    *boxes: Box,
    name: str = "",
    record: bool | str = False,
    replay: str | os.PathLike[str] | None = None,
) -> Branch:
    """Begins a branch at a snapshot, with fresh guests over its files.

    Args:
        ref: A snapshot's id or label, the beginning of its id, or a branch's id for its newest. A branch whose process
            was killed is that and what programs have sent its boxes since; what those did since is undone.
        boxes: The definitions of its instances, in any order.
        name: What to call the branch.
        record: See `branch`.
        replay: See `branch`.

    Returns:
        The branch. Use it as a context manager. It commits into the branch that was named, or that the
        snapshot was made in, if that runs in this process, as any other fork of it does; one that is recorded or
        replayed is a tree of its own, and commits only into what runs nowhere.

    Raises:
        RecordingUnknown, RecordingInvalid: There is no recording to replay, or it is damaged.
        SnapshotUnknown: There is none such, or several; ``details["candidates"]`` names these.
        WrongState: Its files are gone.
        UnmetNeed: A definition is missing; ``details["labels"]`` says of what.
    """
    home = runtime()
    with taped(home, record, replay) as tape:
        records = home.records()
        made = records.at(ref, name)
        parent = records.running.get(made.parent or "") if tape is None else None
        if parent is not None and isinstance(parent.family.waiting, Blocking):
            running = parent.adopt(made)
        else:
            running = RunningBranch(new_family(home, tape), made, None, {})
        run(running.restore(boxes))
        found: Branch = running.face
        return found


def new_family(home: Runtime, tape: Tape | None = None) -> Family:
    """Makes what the branches of one tree share, for plain programs."""

    async def ensure(box: Box, progress: Progress | None) -> tuple[States, State]:
        states = home.states()
        return states, states.ensure(box, progress, "" if tape is None else tape.id)

    return home.records().family(Blocking(), ensure, Instance, Branch, home.egress, tape)
