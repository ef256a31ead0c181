"""Runs of one state directory, as one process submits them, follows them and, where no other does, carries them out."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from kibo.model.clock import moment
from kibo.schedule.following import Bell
from kibo.schedule.register import Register
from kibo.schedule.submitting import Submission
from kibo.store.wakeups import DirectoryBus
from kibo.wiring.carriers_alive import Alive

if TYPE_CHECKING:
    from kibo.model.ids import RunId
    from kibo.schedule.applying import Wants
    from kibo.schedule.explaining import Explanation
    from kibo.schedule.survey import Survey, Surveyor
    from kibo.store.database import Store
    from kibo.wiring import Runtime
    from kibo.wiring.carrying import Carrying
    from kibo.wiring.upkeep import Upkeep


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
        #: Rung where something else is wanted.
        self._wants_bell: Final = directory / "wanted"
        self.runs: Final = Submission(self._store, bell=self._ring)
        self._register: Final = Register(self._store)
        self._guard: Final = threading.Lock()
        self._carrying: Carrying | None = None
        self._upkeep: Upkeep | None = None

    def work(self, run: str) -> bytes:
        """Returns what a run is to do, as it was submitted."""
        return self._register.work([run])[run]

    @property
    def wants(self) -> Wants:
        """What is wanted, as those see it who say it."""
        from kibo.schedule.applying import Wants  # late: few say what is wanted

        return Wants(self._store, bell=Bell(self._wants_bell).ring)

    def explain(self, run: RunId) -> Explanation:
        """Says why a run is where it is; see `kibo.explain`."""
        from kibo.schedule import explaining  # late: it brings the queue along
        from kibo.wiring.held_effects import with_effects

        found = explaining.read(self._store, self.surveyor(), run, moment(), self._alive.dead())
        return with_effects(found, self.runs, self._home.records())

    def surveyor(self) -> Surveyor:
        """Returns what reads all that has not ended, again and again; for `survey`."""
        from kibo.schedule.survey import Surveyor  # late: it brings the queue along

        return Surveyor(self._store)

    def survey(self, surveyor: Surveyor) -> Survey:
        """Reads all that has not ended, and who carries it out."""
        return surveyor.look(moment(), self._alive.dead())

    def carry_out(self) -> None:
        """Has this process carry runs out from now on, unless it does. Returns once it stands ready.

        Raises:
            StoreUnavailable: It cannot.
        """
        from kibo.wiring.carrying import Carrying  # late: who asks for runs or looks at them carries none out

        with self._guard:
            if self._carrying is None:
                self._carrying = Carrying(
                    self._home, self._store, self.runs, self.bell, DirectoryBus(self._asked), self._alive
                )

    def keep_up(self) -> Upkeep:
        """Has this process start the runs of triggers from now on, unless it does."""
        from kibo.wiring.records import FOLLOWERS
        from kibo.wiring.upkeep import Upkeep  # late: who carries runs out for itself starts none

        with self._guard:
            if self._upkeep is None:
                self._upkeep = Upkeep(self._store, self.runs, self._wants_bell, self._home.home / FOLLOWERS)
            return self._upkeep

    def close(self) -> None:
        """Ends what it runs: what has not ended is gone on with by the next process that carries runs out."""
        with self._guard:
            upkeep, self._upkeep = self._upkeep, None
            carrying, self._carrying = self._carrying, None
        if upkeep is not None:
            upkeep.close()
        if carrying is not None:
            carrying.close()
        self.bell.close()

    def _ring(self) -> None:
        self.bell.ring()
        Bell(self._asked).ring()  # last: whoever has asked is not kept from going on by what that sets going
