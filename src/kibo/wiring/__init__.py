"""Puts the parts together: the only module that names adapters."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kibo.model.asker import NOBODY, Asker
from kibo.model.errors import RuntimeLost, WrongState
from kibo.runtime.egress import Egress
from kibo.runtime.layers.home import prepare_home, state_home
from kibo.runtime.layers.store import exhausting_disk
from kibo.runtime.mailing import provide
from kibo.runtime.waiting import Blocking, Waiting, run

if TYPE_CHECKING:
    from kibo.box.define import Box
    from kibo.runtime.answering import Verbs
    from kibo.runtime.instance import Instance
    from kibo.runtime.pool import Pool
    from kibo.runtime.states import Progress, Spawned, State, States
    from kibo.wiring.records import Records
    from kibo.wiring.scheduling import Scheduling


class Runtime:
    """The embedded runtime of one process: starts on first use, ends with the process, and restarts if it was lost."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or state_home()
        self._guard = threading.Lock()
        self._waiting = Blocking()
        self._states: States | None = None
        self.egress = way_out(self.home)
        self._pools: dict[str, Pool] = {}
        #: Hits and misses of pools that were closed.
        self._pooled = (0, 0)
        self._records: Records | None = None
        self._scheduling: Scheduling | None = None
        self._over = False

    def running(self) -> States | None:
        """Returns the cached states of the session, or None where none runs."""
        states = self._states
        return states if states is not None and states.session.alive else None

    def states(self) -> States:
        """Returns the cached states of a running session, starting one where there is none."""
        running = self.running()
        if running is not None:
            return running
        from kibo.runtime.session import Session  # late: who only looks at what is recorded spawns nothing
        from kibo.runtime.states import States

        with self._guard:
            if self._over:
                raise RuntimeLost(
                    "the process is ending, and its runtime with it",
                    hint="Join the threads that spawn before the program ends.",
                )
            if self._states is None or not self._states.session.alive:
                if self._states is not None:
                    self._states.session.close()
                with exhausting_disk(self.home):
                    prepare_home(self.home)
                    self._states = States(
                        Session(self.home), self.egress, lambda: self.records().recorder, _verbs
                    )
            return self._states

    def build(self, box: Box, progress: Progress | None = None) -> State:
        """Makes a box's cached state, or finds it."""
        return self.states().ensure(box, progress)

    def spawn(
        self,
        box: Box,
        *,
        name: str = "",
        progress: Progress | None = None,
        record: bool | str = False,
        replay: str | os.PathLike[str] | None = None,
    ) -> Instance:
        """Makes an instance of a box; see `Box.spawn`.

        Args:
            box: The definition.
            name: What to call the instance on the command line, besides its id.
            progress: Told of each step where something has to be built.
            record: See `Box.spawn`.
            replay: See `Box.spawn`.
        """
        if record or replay is not None:
            return self._taped(box, name, progress, record, replay)
        pool = self.pool_of(box, name)
        return pool.spawn() if pool is not None else self._fresh(box, name, progress)

    def _taped(
        self,
        box: Box,
        name: str,
        progress: Progress | None,
        record: bool | str,
        replay: str | os.PathLike[str] | None,
    ) -> Instance:
        from kibo.wiring.tapes import begin, bind  # late: few record

        tape = begin(self, record, replay, alone=False)
        assert tape is not None
        try:
            instance = self._fresh(box, name, progress, tape.id)
        except BaseException:
            tape.drop()
            raise
        bind(instance, tape)
        return instance

    def pool_of(self, box: Box, name: str) -> Pool | None:
        """Returns the pool that a spawn is to take from, if any: what is ready has no name."""
        return self._pools.get(box.digest) if self._pools and not name else None

    def _fresh(self, box: Box, name: str = "", progress: Progress | None = None, tape: str = "") -> Instance:
        async def ensure(states: States) -> State:
            return states.ensure(box, progress, tape)

        async def start() -> States:
            return self.states()

        from kibo.runtime.instance import Instance  # late, as in `states`

        return Instance(run(self.fork(self._waiting, name, start, ensure, Asker(tape=tape))))

    async def fork(
        self,
        waiting: Waiting,
        name: str,
        start: Callable[[], Awaitable[States]],
        ensure: Callable[[States], Awaitable[State]],
        asker: Asker = NOBODY,
    ) -> Spawned:
        """Makes what an instance consists of, for whichever face.

        Args:
            waiting: How to wait.
            name: What to call it; may be empty.
            start: Gives the states of a running session.
            ensure: Gives the state to fork from.
            asker: On whose behalf it asks for something outside.
        """
        states = await start()
        try:
            return await self._fork_once(waiting, states, name, ensure, asker)
        except RuntimeLost:
            # Killed since its last use, before its socket told: what was asked for can still be had, from a new one.
            self._drop(states)
        return await self._fork_once(waiting, await start(), name, ensure, asker)

    async def _fork_once(
        self,
        waiting: Waiting,
        states: States,
        name: str,
        ensure: Callable[[States], Awaitable[State]],
        asker: Asker,
    ) -> Spawned:
        state = await ensure(states)
        return await states.fork(waiting, state, name, asker=asker)

    def _drop(self, states: States) -> None:
        with self._guard:
            if self._states is states:
                self._states = None
            # Guarded, so that `close`, and with it the end of the process, waits until what was left is removed.
            states.session.close()

    def pool(self, box: Box, least: int, most: int) -> Pool:
        """Keeps instances of a box ready; see `kibo.pool`."""
        from kibo.runtime.pool import Pool  # late: few have one

        digest = box.digest
        if digest in self._pools:
            raise WrongState("there is a pool of this box already", hint="Close it first, or use it.")

        def forget(pool: Pool) -> None:
            with self._guard:
                if self._pools.get(digest) is pool:
                    del self._pools[digest]
                    self._pooled = (self._pooled[0] + pool.hits, self._pooled[1] + pool.misses)

        pool = self._pools[digest] = Pool(lambda: self._fresh(box), least, most, forget)
        return pool

    def pooled(self) -> tuple[int, int]:
        """Returns how many spawns found an instance ready in a pool, and how many did not."""
        with self._guard:
            pools = list(self._pools.values())
            hits, misses = self._pooled
        return hits + sum(pool.hits for pool in pools), misses + sum(pool.misses for pool in pools)

    def records(self) -> Records:
        """Returns the history of this state directory, opened on first use."""
        from kibo.wiring.records import Records  # late: it brings a database along, which no spawn needs

        with self._guard:
            if self._records is None:
                self._records = Records(self.home)
            return self._records

    def scheduling(self) -> Scheduling:
        """Returns the runs of this state directory, opened on first use."""
        from kibo.wiring.scheduling import Scheduling  # late: it brings the scheduler along

        records = self.records()
        with self._guard:
            if self._scheduling is None:
                self._scheduling = Scheduling(self, records.store)
            return self._scheduling

    def end(self) -> None:
        """As `close`, for good: a thread that still runs while the process ends must not begin another session."""
        with self._guard:
            self._over = True
        self.close()

    def close(self) -> None:
        """Ends every instance and every process of the runtime. Returns when all are gone."""
        if self._scheduling is not None:
            self._scheduling.close()
            self._scheduling = None
        for pool in list(self._pools.values()):
            pool.close()
        if (running := self.running()) is not None:
            running.end_callers()
        with self._guard:
            if self._states is not None:
                self._states.session.close()
                self._states = None
            self.egress.close()
            if self._records is not None:
                self._records.close()
                self._records = None


def _verbs() -> Verbs:
    from kibo.wiring.callouts import verbs  # late: few boxes call out

    return verbs()


def way_out(home: Path) -> Egress:
    """Makes the way out of a state directory's boxes; its gateway is started by the first that needs it."""

    def make() -> Any:
        from kibo.effects.forwarder import Forwarder
        from kibo.wiring import settings

        prepare_home(home)
        extra = os.environ.get("KIBO_EXTRA_CA_FILE")
        found = settings.read(home)
        return Forwarder.start(
            home / "authority",
            os.environ,
            sources=found.secrets,
            extra_trust=Path(extra).absolute() if extra else None,
            store=found.store,
        )

    return Egress(make)


def pool(box: Box, *, min: int = 2, max: int = 8) -> Pool:
    """Keeps instances of a box ready, so that `spawn()` takes a ready one: 0.1 ms instead of 2.

    Args:
        box: The definition.
        min: Instances below which the pool is refilled, in the background.
        max: Instances that it is filled up to, now and at each refill.

    Returns:
        The pool, filled. Close it, or use it as a context manager.

    Raises:
        KiboError: As `Box.spawn`.
    """
    return runtime().pool(box, min, max)


def spawner() -> Runtime:
    """What `Box.spawn` uses."""
    return runtime()


def _mail_of(face: Any) -> Any:
    from kibo.wiring.mailing import lobbies  # late: it brings a database along

    return lobbies.mail_of(face, runtime().records())


provide(_mail_of)
_runtime: Runtime | None = None
_guard = threading.Lock()


def runtime() -> Runtime:
    """Returns this process's runtime. A process that was forked from one with a runtime gets one of its own."""
    global _runtime
    with _guard:
        if _runtime is None:
            _runtime = Runtime()
            atexit.register(_close, os.getpid())
        return _runtime


def _close(owner: int) -> None:
    if _runtime is not None and os.getpid() == owner:
        _runtime.end()


def _forget_in_child() -> None:
    global _runtime
    _runtime = None


os.register_at_fork(after_in_child=_forget_in_child)
