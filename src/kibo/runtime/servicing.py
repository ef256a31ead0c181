"""A box's services from the caller's side: started when a box is made, stopped before its state is sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kibo.box.env import Service
from kibo.model.errors import ServiceFailed
from kibo.runtime import wire
from kibo.runtime.channel import Reply
from kibo.runtime.commandline import argv_of
from kibo.runtime.orders import Orders, lost
from kibo.runtime.refusals import refusal_error
from kibo.runtime.waiting import Waiting

#: What the supervisor may take besides the services' own times.
SUPERVISOR_S: Final = 10.0


async def start_services(waiting: Waiting, session: Orders, cell: str, services: Sequence[Service]) -> None:
    """Starts services one after the other, each once the one before is ready. Returns when the last one is.

    Raises:
        ServiceFailed: One ended, or was not ready in time; its log's end is shown. The caller destroys the box.
    """
    await StartingServices(session, cell, services).finish(waiting)


async def stop_services(waiting: Waiting, session: Orders, cell: str) -> None:
    """Ends the services of a box in good order, so that their files are as they leave them."""
    await StartingServices(session, cell, ()).answer(waiting)


class StartingServices:
    """The order to have services instead of those that a box has, given when this is made. `finish` or `close` it.

    Args:
        session: Who is told.
        cell: The box.
        services: What is to run in it, in the order in which it starts.
    """

    def __init__(self, session: Orders, cell: str, services: Sequence[Service]) -> None:
        self._session = session
        self._timeout_s = sum(service.start_timeout_s for service in services) + SUPERVISOR_S
        specs: list[dict[str, Any]] = [
            {
                "name": service.name,
                "command": argv_of(service.command),
                "ready": service.ready or "",
                "restart": service.restart,
                "start_timeout_s": service.start_timeout_s,
                "variables": dict(service.variables),
            }
            for service in services
        ]
        self._reply = Reply()
        try:
            session.order("services", {"id": cell, "services": specs}, [self._reply.theirs.fileno()])
            self._reply.theirs.close()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops listening for what becomes of it."""
        self._reply.close()

    async def answer(self, waiting: Waiting) -> dict[str, Any]:
        """Waits until all of it is done; returns what is said of it.

        Raises:
            ServiceFailed: Nobody says anything.
        """
        try:
            answer, _ = await self._reply.receive(waiting, self._timeout_s)
            return dict(answer)
        except wire.Closed:
            if not self._session.alive:
                raise lost() from None
            raise ServiceFailed(
                "the box killed what supervises its services", hint="Spawn another one."
            ) from None
        except TimeoutError:
            raise ServiceFailed(
                "what supervises the box's services does not answer", hint="Spawn another one."
            ) from None
        finally:
            self.close()

    async def finish(self, waiting: Waiting) -> None:
        """Waits until all of it is done.

        Raises:
            ServiceFailed: As for `start_services`.
        """
        answer = await self.answer(waiting)
        if answer["kind"] == "refused" and answer["code"] == "service.failed":
            log = answer["details"]["log"]
            raise ServiceFailed(
                f"{answer['message']}\n{log.rstrip()}" if log else f"{answer['message']}; it printed nothing",
                hint="Look at its log above; raise Service.start_timeout_s if it needs longer.",
                details=answer["details"],
            )
        if answer["kind"] == "refused":
            raise refusal_error(answer)
