"""All that one state directory records, opened; loaded by the first that needs a database."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kibo.box.define import Box
from kibo.branch.deltas import Deltas
from kibo.branch.flushing import Flusher
from kibo.branch.history import History
from kibo.branch.hostdir.recover import recover
from kibo.branch.owning import Owner, sweep
from kibo.branch.records import BranchRecord
from kibo.branch.watching import DiskWatch
from kibo.effects.approvals import person
from kibo.effects.bells import ringing
from kibo.effects.ledger import Ledger
from kibo.effects.recorder import Recorder
from kibo.effects.records import Effect
from kibo.model.errors import HostUnsupported
from kibo.model.ids import BranchId
from kibo.runtime.idmap import BOX_ID, RANGE, ROOT_BASE, choose_map
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.layers.store import exhausting_disk
from kibo.runtime.waiting import Waiting
from kibo.store import crash
from kibo.store.belonging import open_history
from kibo.store.wakeups import DirectoryBus, Following, telling
from kibo.wiring import settings

if TYPE_CHECKING:
    from kibo.branch.family import Family
    from kibo.branch.parcels import Ids
    from kibo.branch.running import RunningBranch
    from kibo.branch.standing import Standing
    from kibo.runtime.egress import Egress, Tape
    from kibo.runtime.states import Progress, Spawned, State, States

_log: Final = logging.getLogger(__name__)
#: The directory of a state directory that is rung in where mail was written.
FOLLOWERS: Final = "followers"


class Records:
    """The history of one state directory, and what brings its files to the disk."""

    def __init__(self, home: Path) -> None:
        with exhausting_disk(home):
            prepare_home(home)
        self.home: Final = home
        self.store = open_history(home, settings.read(home).store)
        self.history = History(self.store)
        for error in self.history.recover().damaged:
            _log.warning("after a power cut, a tree stays as it was: %s", error.message)
        self.ledger = Ledger(self.store)
        self._gateways = home / "gateways"
        # What a gateway left that was killed is told as it is, before anybody asks; the next gateway sends.
        self.recorder = Recorder(self.store, home / "callers", self._gateways)
        _end_applies(home)
        killed = sweep(home, self.history)
        self.owner = Owner(home)
        self.flusher = Flusher(self.history, home)
        if killed and (left := self.history.unflushed()):
            self.flusher.add(*left)  # what they sealed last, which nobody would bring to the disk
        self.deltas = Deltas(home, self.owner.new)
        self.watch = DiskWatch(self.deltas)
        self.wakeups = DirectoryBus(home / "wakeups")
        #: What brings the mail of instances that are in no branch.
        self.lobbies: list[Any] = []
        self.running: weakref.WeakValueDictionary[str, RunningBranch] = weakref.WeakValueDictionary()

    def passing(self, goal: str, name: str) -> BranchRecord:
        """Begins a tree that ends with this process, however that ends."""
        made = BranchId.new()
        self.owner.takes_along(made)
        return self.history.create(goal, name, id=made)

    def standing(self) -> Standing:
        """Returns the branches as they stand, for programs that run none of them."""
        from kibo.branch.standing import Standing  # late, as for `family`

        return Standing(self.history, self.deltas, self.flusher, self.owner, _ids)

    def at(self, ref: str, name: str) -> BranchRecord:
        """Makes a branch at a snapshot; of a branch that was named, and that its process has left, at what stands."""
        if ref.startswith(BranchId.prefix):
            self.standing().rewind(self.history.get(ref))
        return self.history.at(self.history.find_snapshot(ref).id, name, ref=ref)

    def family(
        self,
        waiting: Waiting,
        ensure: Callable[[Box, Progress | None], Awaitable[tuple[States, State]]],
        instance_face: Callable[[Spawned], Any],
        branch_face: Callable[[Any], Any],
        egress: Egress,
        tape: Tape | None = None,
    ) -> Family:
        """Makes what the branches of one tree share; see `Family`."""
        from kibo.branch.family import Family  # late: who only reads runs no branch

        return Family(
            self.history,
            self.deltas,
            self.flusher,
            self.watch,
            self.owner,
            waiting,
            ensure,
            instance_face,
            branch_face,
            self.running,
            egress,
            _owner,
            self.recorder,
            self.listen,
            self.telling,
            tape,
        )

    def listen(self) -> None:
        """Has the branches of this process look for mail that another process has written."""
        self.wakeups.listen(self._look_for_mail)

    def telling(self) -> AbstractContextManager[None]:
        """Wakes, at the end of a block that writes mail, those who follow it from other processes."""
        return telling(self.home / FOLLOWERS)

    def following(self) -> Following:
        """Returns what is woken by that."""
        return Following(self.home / FOLLOWERS)

    def _look_for_mail(self) -> None:
        for running in list(self.running.values()):
            running.look_for_mail()
        for lobby in list(self.lobbies):
            lobby.mail.look_again()

    def ringing(self) -> AbstractContextManager[None]:
        """Has gateways look at what waits for a person, after what is done meanwhile."""
        return ringing(self._gateways)

    def approve(self, effect: str, digest: str) -> Effect:
        """Records that who runs this process approves a payload, and has its gateway act on it; see `kibo.approve`."""
        with self.ringing():
            found = self.ledger.approve(effect, digest=digest, by=person())
            crash.point("effect.approved")
            return found

    def deny(self, effect: str, why: str) -> Effect:
        """Records that who runs this process refuses a payload, and has its gateway act on it; see `kibo.deny`."""
        with self.ringing():
            found = self.ledger.refuse(effect, by=person(), why=why)
            crash.point("effect.refused")
            return found

    def close(self) -> None:
        """Brings to the disk what is not there, and closes the database."""
        self.wakeups.close()
        for lobby in self.lobbies:
            lobby.close()
        self.lobbies.clear()
        self.watch.close()
        self.flusher.close()
        self.owner.close(self.history)
        self.recorder.close()
        self.store.close()


def _end_applies(home: Path) -> None:
    """Ends what a crash cut short of bringing files to the host, before anybody looks at either."""
    for found in recover(home):
        if found.outcome == "unreadable":
            _log.warning(
                "an apply had been cut short, and its journal, %s, cannot be read: what it left in a directory of "
                "the host is called .kibo-apply-%s-*, and is new or old contents of what lies beside it",
                found.host, found.host.name[-12:],
            )  # fmt: skip
            continue
        kept = "".join(f"; kept as {os.fsdecode(path)}" for path in found.kept)
        level = logging.INFO if found.outcome == "waiting" else logging.WARNING
        _log.log(level, "an apply to %s had been cut short: it is %s now%s", found.host, found.outcome, kept)


def _range(what: str) -> int | None:
    """Returns the number that stands for a box's 0 on this host; None where all files are the user's own.

    Raises:
        HostUnsupported: ``what`` needs files that this user cannot make.
    """
    kind = choose_map().kind
    if kind == "subuid":
        raise HostUnsupported(
            f"{what} needs files that belong to ids of the granted range, which this user cannot give away",
            hint="Leave KIBO_IDS out: boxes then have your own id, and their branches your own files.",
        )
    return ROOT_BASE if kind == "root" else None


def _ids() -> Ids:
    """Returns whose numbers files that come from elsewhere get."""
    from kibo.branch.parcels import Ids  # late, as for `family`

    return Ids(_range("an import"), RANGE, BOX_ID)


def _owner(as_root: bool) -> tuple[int, int] | None:
    """Returns who a workspace's files belong to, in the host's numbers, so that the box's programs own them."""
    first, inside = _range("a workspace"), 0 if as_root else BOX_ID
    return None if first is None else (first + inside, first + inside)
