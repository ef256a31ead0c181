"""Runs, for coroutines: submitted, found and listed; loaded by the first that asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kibo.box.define import Box
from kibo.runtime.anyio_waiting import AnyioWaiting
from kibo.schedule.handle import AsyncRun, Run
from kibo.wiring import runs as plain

if TYPE_CHECKING:
    from kibo.schedule.explaining import Explanation


async def submit(box: Box, action: str, /, *args: Any, **options: Any) -> AsyncRun:
    """Has an action done under a policy; see `kibo.submit`, whose arguments these are.

    Cancelled, it was submitted or not: with ``key=``, submit again.
    """
    return _face(await AnyioWaiting().aside(lambda: plain.submit(box, action, *args, **options)))


async def get_run(run: str) -> AsyncRun:
    """Finds a run that was submitted, by any process; see `kibo.get_run`."""
    return _face(await AnyioWaiting().aside(lambda: plain.get_run(run)))


async def runs(*, ended: bool = True, tenant: str | None = None, most: int = 100) -> list[AsyncRun]:
    """Lists runs, the newest first; see `kibo.runs`."""
    found = await AnyioWaiting().aside(lambda: plain.runs(ended=ended, tenant=tenant, most=most))
    return [_face(each) for each in found]


async def explain(run: AsyncRun | str) -> Explanation:
    """Says why a run is where it is, or why it is not started yet; see `kibo.explain`."""
    name = plain.id_of(run)
    return await AnyioWaiting().aside(lambda: plain.explain(name))


def _face(run: Run) -> AsyncRun:
    return AsyncRun(run.id, run._runs, run._bell, AnyioWaiting(), run._checked, run._carry, run._explained)
