"""The mail of a branch, its board, and what was delegated in it, as a plain program holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from kibo.model.message import DeadLetter, DelegationRecord, Message, Posting, Progress
from kibo.runtime.waiting import run

if TYPE_CHECKING:
    from kibo.branch.delegation import Delegation, State
    from kibo.branch.mail import Mail, Presence
    from kibo.branch.running import RunningBranch


class Delegated:
    """An action that one instance has another do.

    Attributes:
        id: Its name.
    """

    def __init__(self, delegation: Delegation) -> None:
        self._delegation = delegation
        self.id: Final = delegation.id

    def __repr__(self) -> str:
        return f"<Delegated {self.id} {self.state}>"

    @property
    def state(self) -> State:
        """``begun``, ``done``, ``failed`` or ``cancelled``."""
        return self._delegation.state

    def result(self, timeout_s: float | None = None) -> Any:
        """Waits for what it returns.

        Args:
            timeout_s: Seconds to wait; None for ever.

        Raises:
            ReplyTimedOut: It has not ended in time, and goes on.
            WrongState: It was cancelled.
            KiboError: As the action itself.
        """
        return run(self._delegation.result(timeout_s))

    def events(self) -> Iterator[Progress]:
        """Yields what there is and what comes: that it began, what it yields, and how it ended. The newest 1,000."""
        last = 0
        while (event := run(self._delegation.next_event(last))) is not None:
            last = event.number
            yield event

    def cancel(self) -> bool:
        """Interrupts it. Returns whether it had not ended by itself.

        The other instance lives on, where the action lets itself be interrupted. A recorded action is carried out.
        """
        return run(self._delegation.cancel())


class BranchMail:
    """The mail of one branch: what was sent in it, what could not be delivered, and what its instances are at."""

    def __init__(self, mail: Mail) -> None:
        self._mail = mail

    def sent(self, *, after: int = 0, limit: int = 1000) -> list[Message]:
        """Returns messages and events that the branch sees, handled or not, in order: to read on from a cursor.

        Args:
            after: The `kibo.Message.seq` of the last one that is known; 0 for the beginning.
            limit: How many at most, 1 to 10,000.
        """
        return run(self._mail.sent(after, limit))

    def dead(self) -> list[DeadLetter]:
        """Lists what could not be delivered, oldest first, and why."""
        return run(self._mail.dead())

    def redeliver(self, message: str) -> int:
        """Has a dead letter delivered after all, by the id of its message. Returns to how many recipients.

        Raises:
            MessageUnknown: There is none such.
        """
        return run(self._mail.redeliver(message))

    def delegations(self) -> list[DelegationRecord]:
        """Tells what has become of delegations that the branch sees, oldest first: the newest 10,000.

        One whose process has ended, or that was begun in another branch and not seen to its end, is ``lost``.
        """
        return run(self._mail.delegations())

    def presence(self) -> dict[str, Presence]:
        """Tells of each instance whether it is ``idle``, ``busy``, ``asleep`` since it was forked, or ``ended``."""
        return self._mail.presence()


class BranchBoard:
    """The board of the branch's tree: every branch reads what any has posted, at once and whatever becomes of that."""

    def __init__(self, running: RunningBranch) -> None:
        self._running = running

    def post(self, body: Any, *, author: str = "") -> None:
        """Writes an entry, marked with this branch. It stays if the branch is aborted.

        Args:
            body: A value of JSON, or bytes, of up to 1 MiB.
            author: Who it is from, such as an instance's name.

        Raises:
            MessageInvalid: The body is neither, or too large.
            BranchClosed: The branch was committed or aborted.
            Exhausted: The board has 100,000 entries.
        """
        run(self._running.family.waiting.aside(lambda: self._running.board.post(body, author)))

    def read(self, *, after: int = 0, limit: int = 1000) -> list[Posting]:
        """Returns entries of all branches of the tree, in order.

        Args:
            after: The `Posting.position` of the last one that is known; 0 for the beginning.
            limit: How many at most, 1 to 10,000.
        """
        return run(self._running.family.waiting.aside(lambda: self._running.board.read(after, limit)))
