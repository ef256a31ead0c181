"""What an instance sends and receives, as a program of coroutines holds it; see `kibo.runtime.mailing`."""

from __future__ import annotations

from typing import Any, Final

from kibo.model.ids import MessageId
from kibo.model.message import DeadLetter, Delivery, Message


class AsyncReceipt:
    """What becomes of a message that was sent; see `kibo.runtime.mailing.Receipt`.

    Attributes:
        id: The message's.
    """

    def __init__(self, mail: Any, message: MessageId) -> None:
        self._mail = mail
        self.id: Final = message

    def __repr__(self) -> str:
        return f"<aio.Receipt {self.id}>"

    async def deliveries(self) -> list[Delivery]:
        """Tells how far it has come at each recipient."""
        return list(await self._mail.receipt(self.id))

    async def wait(self, stage: str = "consumed", *, timeout_s: float | None = None) -> list[Delivery]:
        """Waits until it has come so far at each recipient, or is dead there."""
        return list(await self._mail.settled(self.id, stage, timeout_s))


class AsyncMailbox:
    """The messages to one instance; see `kibo.runtime.mailing.Mailbox`."""

    def __init__(self, mail: Any, member: str) -> None:
        self._mail = mail
        self._member = member

    async def receive(self, *, timeout_s: float | None = 0.0) -> Message | None:
        """Takes the next message. Cancelled, it has taken none."""
        found: Message | None = await self._mail.receive(self._member, timeout_s=timeout_s)
        return found

    async def done(self, message: Message) -> None:
        """Says that a received message has been handled."""
        await self._mail.settle(self._member, message.id)

    async def failed(self, message: Message, why: str) -> None:
        """Says that a received message could not be handled."""
        await self._mail.settle(self._member, message.id, why)

    async def dead(self) -> list[DeadLetter]:
        """Lists the messages and events that could not be delivered to it."""
        return list(await self._mail.dead(self._member))

    async def redeliver(self, message: str) -> int:
        """Has a dead letter delivered after all. Returns how many of its handlers get it."""
        return int(await self._mail.redeliver(message, self._member))
