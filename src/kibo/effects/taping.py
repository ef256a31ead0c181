"""A recording or a replay as the process sees it whose boxes it is of: begun, and ended once they are."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

from kibo.effects.forwarder import Forwarder
from kibo.effects.orders import Order
from kibo.effects.recording_writer import Sealed
from kibo.effects.recordings import Recordings, checked, disk_full, open_verified
from kibo.effects.unrecorded import Unrecorded
from kibo.model.errors import Exhausted, RecordingLost, RequestUnknown, RuntimeLost
from kibo.model.ids import RecordingId, ReplayId

_PIECE_BYTES = 64 * 1024


class RecordingTape:
    """A recording that is being made.

    Args:
        forwarder: The gateway of the boxes.
        recordings: Where it is kept.
        name: What it is to be called; by default after its id.

    Raises:
        InvalidInput: The name is none.
        HostDiskFull: There is no room to begin.
        RuntimeLost: The gateway is gone.
    """

    def __init__(self, forwarder: Forwarder, recordings: Recordings, name: str = "") -> None:
        recording = RecordingId.new()
        self.id = str(recording)
        self.name = checked(name or self.id)
        self._forwarder = forwarder
        self._recordings = recordings
        self._fd, self._part = recordings.begin(recording)
        self._ended = False
        try:
            order = Order("record", self.id, path=str(recordings.folder), label=self.name)
            forwarder.order(order, [self._fd])
        except BaseException:
            self._discard()
            raise

    def close(self) -> None:
        """Ends it: from now on it is there. Idempotent.

        Raises:
            HostDiskFull: There was no room for it, and nothing was kept. Nor was anything in the cases below.
            Exhausted: It would be larger than recordings are.
            RecordingLost: Its gateway has ended.
        """
        if self._ended:
            return
        self._ended = True
        try:
            sealed = self._seal()
            if sealed.full:
                raise disk_full(self._part.parent)
            if sealed.problem:
                raise Exhausted(
                    f"the recording {self.name} was not kept: {sealed.problem}",
                    hint="Record less at a time.",
                    details={"recording": self.name},
                )
            self._recordings.publish(self._part, self.name)
        finally:
            self._discard()

    def drop(self) -> None:
        """Ends it, and keeps nothing. Idempotent."""
        if self._ended:
            return
        self._ended = True
        with suppress(RuntimeLost):  # and it with the gateway
            self._forwarder.order(Order("end", self.id))
        self._discard()

    def unrecorded(self) -> list[Unrecorded]:
        """Of a replay."""
        return []

    def _seal(self) -> Sealed:
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    self._forwarder.order(Order("seal", self.id), [theirs.fileno()])
                said = b""
                while piece := ours.recv(_PIECE_BYTES):
                    said += piece
                return msgspec.msgpack.decode(said, type=Sealed)
            except (RuntimeLost, OSError, msgspec.MsgspecError) as error:
                raise RecordingLost(
                    f"the recording {self.name} was not kept: its gateway has ended",
                    details={"recording": self.name, "cause": str(error)},
                ) from error

    def _discard(self) -> None:
        self._ended = True
        self._part.unlink(missing_ok=True)
        os.close(self._fd)


class ReplayTape:
    """A recording that is being replayed.

    Args:
        forwarder: The gateway of the boxes.
        recordings: Where recordings are kept.
        ref: Which; see `Recordings.opened`.

    Raises:
        RecordingUnknown: There is none such.
        RecordingInvalid: It is damaged.
        RuntimeLost: The gateway is gone.
    """

    def __init__(self, forwarder: Forwarder, recordings: Recordings, ref: str | os.PathLike[str]) -> None:
        self.id = str(ReplayId.new())
        self.name = ref if isinstance(ref, str) and "/" not in ref else Path(ref).name
        self._forwarder = forwarder
        self._ended: list[Unrecorded] | None = None
        fd = open_verified(recordings, ref)
        try:
            forwarder.order(Order("replay", self.id, label=self.name), [fd])
        finally:
            os.close(fd)

    def close(self) -> None:
        """Ends it. Idempotent.

        Raises:
            RequestUnknown: Something was asked for that the recording does not have.
            RuntimeLost: The gateway has ended, and nobody knows.
        """
        if self._ended is not None:
            return
        missed = self._forwarder.order(Order("missed", self.id)).missed
        self._ended = missed.requests
        self._forwarder.order(Order("end", self.id))
        if missed.count:
            first = missed.requests[0]
            more = f", and to {missed.count - 1} more" if missed.count > 1 else ""
            raise RequestUnknown(
                f"the recording {self.name} has no answer to {first.method} {first.url}: {first.why}{more}",
                details={
                    "recording": self.name,
                    "count": missed.count,
                    "requests": [
                        {"method": each.method, "url": each.url, "why": each.why} for each in missed.requests
                    ],
                },
            )

    def drop(self) -> None:
        """Ends it, whatever it was asked for. Idempotent."""
        if self._ended is None:
            self._ended = []
            with suppress(RuntimeLost):
                self._forwarder.order(Order("end", self.id))

    def unrecorded(self) -> list[Unrecorded]:
        """Lists what was asked for so far that the recording does not have; the first fifty."""
        if self._ended is not None:
            return self._ended
        return self._forwarder.order(Order("missed", self.id)).missed.requests
