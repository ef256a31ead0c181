"""Cells on their way, from the order to ready: several are made side by side, each step of all before the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kibo.box.plan import Plan
from kibo.model.limits import DEFAULT_LAUNCH_S
from kibo.runtime import wire
from kibo.runtime.egress import Door
from kibo.runtime.orders import Orders
from kibo.runtime.servicing import StartingServices
from kibo.runtime.waiting import Waiting


class Making:
    """One cell on its way, ordered when this is made. Then `make_all`, and if that fails `discard`.

    Args:
        session: Whose warden makes it.
        order: ``new`` or ``fork``.
        arguments: Of the order.
        wanted: What it is to be.
        door: Its way out, which is opened while it is made, and closed here.

    Attributes:
        cell: Its id.
        channel: To its guest.
    """

    def __init__(
        self, session: Orders, order: str, arguments: dict[str, Any], wanted: Plan, door: Door | None
    ) -> None:
        self.cell: str = arguments["id"]
        self._session = session
        self._wanted = wanted
        self._door = door
        self._services: StartingServices | None = None
        try:
            self.channel = session.begin(order, arguments, -1 if door is None else door.theirs)
        except BaseException:
            self._close_door()
            raise

    def discard(self) -> None:
        """Ends it, whatever it has become."""
        self._close_door()
        if self._services is not None:
            self._services.close()
        self.channel.close()
        self._session.forget(self.cell)

    async def open(self, waiting: Waiting) -> None:
        """Opens its door. Before its guest is ready: ``resume()`` may already want out."""
        if self._door is None:
            return
        try:
            await self._door.open(waiting)
        except wire.Closed:
            pass  # it could not be made; `be_ready` says why
        finally:
            self._close_door()

    async def be_ready(self, waiting: Waiting) -> None:
        """Waits until its guest is ready, and has its services started."""
        launch_s = self._wanted.limits.launch_s or DEFAULT_LAUNCH_S
        await self._session.finish(waiting, self.channel, self.cell, launch_s)
        if self._wanted.env.services:
            self._services = StartingServices(self._session, self.cell, self._wanted.env.services)

    async def serve(self, waiting: Waiting) -> None:
        """Waits until its services are ready."""
        if self._services is not None:
            await self._services.finish(waiting)

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None


async def make_all(waiting: Waiting, cells: Sequence[Making]) -> None:
    """Brings cells to where they can be used. What they wait for, they wait for at the same time.

    Raises:
        KiboError: One could not be made. The caller discards them all.
    """
    for cell in cells:
        await cell.open(waiting)
    for cell in cells:
        await cell.be_ready(waiting)
    for cell in cells:
        await cell.serve(waiting)
