"""Runs of one state directory, as one process submits them, follows them and, where no other does, carries them out."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Final

from kibo.model.errors import StoreDamaged
from kibo.model.ids import NodeId
from kibo.schedule.dispatcher import Dispatcher
from kibo.schedule.following import Bell
from kibo.schedule.leases import Leases
from kibo.schedule.register import Register
from kibo.schedule.submitting import Submission
from kibo.schedule.system_clock import SystemClock
from kibo.store.wakeups import DirectoryBus
from kibo.wiring.carriers_alive import Alive
from kibo.wiring.local_node import LocalNode, room_of_host
from kibo.wiring.run_branches import RunBranches

if TYPE_CHECKING:
    from kibo.store.database import Store
    from kibo.wiring import Runtime

_log: Final = logging.getLogger(__name__)


class Scheduling:
    """The runs of a state directory. Thread-safe.

    Args:
        home: The runtime that carries them out.
        store: Where they are.
    """

    def __init__(self, home: Runtime, store: Store) -> None:
        self._home: Final = home
        self._store: Final = store
        directory = home.home / "runs"
        directory.mkdir(mode=0o700, exist_ok=True)
        #: Rung by who asks for something, for who carries runs out; and by these, for who waits for runs.
        self._asked: Final = directory / "asked"
        self.bell: Final = Bell(directory / "told")
        self._alive: Final = Alive(directory / "alive")
        self.runs: Final = Submission(self._store, bell=self._ring)
        self._register: Final = Register(self._store)
        self._guard: Final = threading.Lock()
        self._carrying: _Carrying | None = None

    def work(self, run: str) -> bytes:
        """Returns what a run is to do, as it was submitted."""
        return self._register.work([run])[run]

    def carry_out(self) -> None:
        """Has this process carry runs out from now on, unless it does. Returns once it stands ready.

        Raises:
            StoreUnavailable: It cannot.
        """
        with self._guard:
            if self._carrying is None:
                self._carrying = _Carrying(
                    self._home, self._store, self.runs, self.bell, DirectoryBus(self._asked), self._alive
                )

    def close(self) -> None:
        """Ends what it runs: what has not ended is gone on with by the next process that carries runs out."""
        with self._guard:
            carrying, self._carrying = self._carrying, None
        if carrying is not None:
            carrying.close()

    def _ring(self) -> None:
        Bell(self._asked).ring()
        self.bell.ring()


class _Carrying:
    """This process, as it carries runs out: one node, and a dispatcher that stands by or leads."""

    def __init__(
        self,
        home: Runtime,
        store: Store,
        runs: Submission,
        bell: Bell,
        bus: DirectoryBus,
        alive: Alive,
    ) -> None:
        me = NodeId.new()
        holder = f"process {os.getpid()} on {socket.gethostname()} ({me})"
        alive.appear(me)
        self._alive: Final = alive
        self._me: Final = me
        self._clock: Final = SystemClock()
        leases = Leases(store)
        alive.bury(leases)
        self._node: Final = LocalNode(
            me, holder, home, leases, RunBranches(home, runs), room_of_host(), self._clock.ring, bell.ring
        )
        self._dispatcher: Final = Dispatcher(store, self._node, self._clock, holder, _troubled)
        self._bus: Final = bus
        self._node.start(lambda: alive.bury(leases))
        bus.listen(self._clock.ring)
        self._thread: Final = threading.Thread(target=self._dispatch, name="kibo-dispatcher", daemon=True)
        self._thread.start()

    def _dispatch(self) -> None:
        try:
            self._dispatcher.run()
        except StoreDamaged as error:
            _log.error("no run is started by this process any more: %s", error.message)

    def close(self) -> None:
        self._bus.close()
        self._dispatcher.end()
        self._thread.join()
        self._node.close()
        self._alive.leave(self._me)


def _troubled(error: Exception) -> None:
    _log.warning("runs wait for the store: %s", error)
