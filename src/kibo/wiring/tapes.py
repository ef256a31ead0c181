"""Begins recordings and replays; loaded by the first that asks for one."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Any, Final, cast

from kibo.effects.forwarder import Forwarder
from kibo.effects.recordings import Recordings
from kibo.effects.taping import RecordingTape, ReplayTape
from kibo.model.errors import InvalidInput, KiboError
from kibo.runtime.egress import Tape
from kibo.runtime.layers.home import prepare_home
from kibo.wiring import Runtime

_log: Final = logging.getLogger(__name__)


class StatefulTape:
    """A tape whose boxes' cached states, which what they got from it is in, go with it.

    Args:
        home: The runtime of the boxes.
        tape: The tape.
        alone: Whether all its boxes have ended when it does.
    """

    def __init__(self, home: Runtime, tape: RecordingTape | ReplayTape, *, alone: bool) -> None:
        self.id = tape.id
        self._home = home
        self._tape = tape
        self._alone = alone

    def close(self) -> None:
        """See `Tape`."""
        self._forget()
        self._tape.close()

    def drop(self) -> None:
        """See `Tape`."""
        self._forget()
        self._tape.drop()

    def unrecorded(self) -> list[Any]:
        """See `Tape`."""
        return self._tape.unrecorded()

    def _forget(self) -> None:
        states = self._home.running()
        if states is not None:
            states.forget(self.id, ended=self._alone)


def begin(
    home: Runtime, record: bool | str, replay: str | os.PathLike[str] | None, *, alone: bool = True
) -> Tape | None:
    """Begins what is asked for.

    Args:
        home: The runtime of the boxes.
        record: Whether to record, or what to call the recording.
        replay: The recording to replay.
        alone: See `StatefulTape`.

    Returns:
        The tape; None where neither is asked for.

    Raises:
        InvalidInput: Both are.
        KiboError: See `RecordingTape` and `ReplayTape`.
    """
    if not record and replay is None:
        return None
    if record and replay is not None:
        raise InvalidInput(
            "a box either records or replays",
            hint="Give record= or replay=, and not both: nothing new would be recorded.",
        )
    if record is not True and not isinstance(record, str | bool):
        raise InvalidInput(f"record={record!r} says nothing", hint="Give True, or a name for the recording.")
    prepare_home(home.home)
    recordings = Recordings(home.home)
    forwarder = cast(Forwarder, home.egress.forwarding())
    tape = (
        ReplayTape(forwarder, recordings, replay)
        if replay is not None
        else RecordingTape(forwarder, recordings, record if isinstance(record, str) else "")
    )
    return StatefulTape(home, tape, alone=alone)


def bind(instance: Any, tape: Tape) -> None:
    """Has a tape end with an instance, of either face."""
    instance._tape = tape
    weakref.finalize(instance, _end_aside, tape)


def _end_aside(tape: Tape) -> None:
    """Ends the tape of an instance that nobody refers to: in a thread, since the garbage collector waits for nobody."""

    def work() -> None:
        try:
            tape.close()
        except KiboError as error:
            _log.warning("%s", error)

    try:
        threading.Thread(target=work, name="kibo-tape").start()
    except RuntimeError:  # the interpreter ends, and starts none any more
        work()
