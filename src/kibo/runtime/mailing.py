"""What an instance sends and receives, as a plain program holds it. The hub is a port: it is not known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from kibo.model.ids import BranchId, MessageId
from kibo.model.message import DeadLetter, Delivery, Message
from kibo.runtime.waiting import run

#: What knows the mail of instances that are in no branch; provided when the runtime is wired together.
_provider: Callable[[Any], Any] | None = None


#: Instances whose boxes handle events: those in no branch are let in when somebody there publishes one.
_listening: Final[WeakSet[Any]] = WeakSet()


def note_listener(face: Any) -> None:
    """Notes an instance whose box handles messages or events."""
    _listening.add(face)


def listeners() -> list[Any]:
    """Returns the instances whose boxes handle messages or events, in no order."""
    return list(_listening)


def provide(provider: Callable[[Any], Any]) -> None:
    """Says who brings the mail of instances that are in no branch of their user's."""
    global _provider
    _provider = provider


def mail_of(face: Any) -> Any:
    """Returns what brings the mail of an instance, of either face: a `kibo.branch.mail.Mail`."""
    branch = face.branch
    if not isinstance(branch, BranchId):
        return branch._running.mail
    assert _provider is not None
    return _provider(face)


class Receipt:
    """What becomes of a message that was sent.

    Attributes:
        id: The message's.
    """

    def __init__(self, mail: Any, message: MessageId) -> None:
        self._mail = mail
        self.id: Final = message

    def __repr__(self) -> str:
        return f"<Receipt {self.id}>"

    def deliveries(self) -> list[Delivery]:
        """Tells how far it has come at each recipient; an event that nobody listens to has none.

        Raises:
            MessageUnknown: It was consumed long ago.
        """
        return list(run(self._mail.receipt(self.id)))

    def wait(self, stage: str = "consumed", *, timeout_s: float | None = None) -> list[Delivery]:
        """Waits until it has come so far at each recipient, or is dead there.

        Args:
            stage: ``"delivered"``: a handler has it; ``"consumed"``: the handler has returned.
            timeout_s: Seconds to wait; None for ever.

        Raises:
            ReplyTimedOut: It has not in time.
        """
        return list(run(self._mail.settled(self.id, stage, timeout_s)))


class Mailbox:
    """The messages to one instance, for a program that takes them itself, and those that nobody could handle."""

    def __init__(self, mail: Any, member: str) -> None:
        self._mail = mail
        self._member = member

    def receive(self, *, timeout_s: float | None = 0.0) -> Message | None:
        """Takes the next message, in the order in which they were sent. Say `done` once it is handled.

        One that is not done when the program ends is delivered again, with the same id.

        Args:
            timeout_s: Seconds to wait for one; None for ever.

        Returns:
            The message; None where there is none in time.

        Raises:
            InstanceEnded: The instance has ended.
        """
        found: Message | None = run(self._mail.receive(self._member, timeout_s=timeout_s))
        return found

    def done(self, message: Message) -> None:
        """Says that a received message has been handled. On the disk when it returns.

        Raises:
            MessageUnknown: It was not received here, or is settled.
        """
        run(self._mail.settle(self._member, message.id))

    def failed(self, message: Message, why: str) -> None:
        """Says that a received message could not be handled: it is delivered again, or is dead after five times.

        Args:
            message: As `receive` returned it.
            why: What was in the way.

        Raises:
            MessageUnknown: As `done`.
        """
        run(self._mail.settle(self._member, message.id, why))

    def dead(self) -> list[DeadLetter]:
        """Lists the messages and events that could not be delivered to it, oldest first, and why."""
        return list(run(self._mail.dead(self._member)))

    def redeliver(self, message: str) -> int:
        """Has a dead letter delivered after all, by the id of its message. Returns how many of its handlers get it.

        Raises:
            MessageUnknown: There is none such.
        """
        return int(run(self._mail.redeliver(message, self._member)))
