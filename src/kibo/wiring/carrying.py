"""One process that carries runs out: one node, and a dispatcher that stands by or leads."""

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


class Carrying:
    """This process, as it carries runs out, on threads of its own until it is closed.

    Args:
        home: The runtime to do it in.
        store: Where they are.
        runs: The same as those see them who ask.
        bell: Rung for who waits for runs.
        bus: Tells of what is asked for.
        alive: Where other processes see that this one lives.
    """

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
        """Ends what it runs."""
        self._bus.close()
        self._dispatcher.end()
        self._thread.join()
        self._node.close()
        self._alive.leave(self._me)


def _troubled(error: Exception) -> None:
    _log.warning("runs wait for the store: %s", error)
