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
    timeout_s = sum(service.start_timeout_s for service in services) + SUPERVISOR_S
    answer = await _ask(waiting, session, cell, specs, timeout_s)
    if answer["kind"] == "refused" and answer["code"] == "service.failed":
        log = answer["details"]["log"]
        raise ServiceFailed(
            f"{answer['message']}\n{log.rstrip()}" if log else f"{answer['message']}; it printed nothing",
            hint="Look at its log above; raise Service.start_timeout_s if it needs longer.",
            details=answer["details"],
        )
    if answer["kind"] == "refused":
        raise refusal_error(answer)


async def stop_services(waiting: Waiting, session: Orders, cell: str) -> None:
    """Ends the services of a box in good order, so that their files are as they leave them."""
    await _ask(waiting, session, cell, [], SUPERVISOR_S)


async def _ask(
    waiting: Waiting, session: Orders, cell: str, specs: list[dict[str, Any]], timeout_s: float
) -> dict[str, Any]:
    reply = Reply()
    try:
        session.order("services", {"id": cell, "services": specs}, [reply.theirs.fileno()])
        reply.theirs.close()
        answer, _ = await reply.receive(waiting, timeout_s)
        return dict(answer)
    except wire.Closed:
        if not session.alive:
            raise lost() from None
        raise ServiceFailed(
            "the box killed what supervises its services", hint="Spawn another one."
        ) from None
    except TimeoutError:
        raise ServiceFailed(
            "what supervises the box's services does not answer", hint="Spawn another one."
        ) from None
    finally:
        reply.close()
