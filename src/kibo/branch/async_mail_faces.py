"""The mail of a branch, its board, and what was delegated in it, for coroutines; see `kibo.branch.mail_faces`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from kibo.model.message import DeadLetter, DelegationRecord, Message, Posting, Progress

if TYPE_CHECKING:
    from kibo.branch.delegation import Delegation, State
    from kibo.branch.mail import Mail, Presence
    from kibo.branch.running import RunningBranch


class AsyncDelegated:
    """An action that one instance has another do.

    Attributes:
        id: Its name.
    """

    def __init__(self, delegation: Delegation) -> None:
        self._delegation = delegation
        self.id: Final = delegation.id

    def __repr__(self) -> str:
        return f"<aio.Delegated {self.id} {self.state}>"

    @property
    def state(self) -> State:
        """``begun``, ``done``, ``failed`` or ``cancelled``."""
        return self._delegation.state

    async def result(self, timeout_s: float | None = None) -> Any:
        """Waits for what it returns. Cancelled, it goes on."""
        return await self._delegation.result(timeout_s)

    async def events(self) -> AsyncIterator[Progress]:
        """Yields what there is and what comes: that it began, what it yields, and how it ended."""
        last = 0
        while (event := await self._delegation.next_event(last)) is not None:
            last = event.number
            yield event

    async def cancel(self) -> bool:
        """Interrupts it. Returns whether it had not ended by itself."""
        return await self._delegation.cancel()


class AsyncBranchMail:
    """The mail of one branch."""

    def __init__(self, mail: Mail) -> None:
        self._mail = mail

    async def sent(self, *, after: int = 0, limit: int = 1000) -> list[Message]:
        """Returns messages and events that the branch sees, in order, from a cursor on."""
        return await self._mail.sent(after, limit)

    async def dead(self) -> list[DeadLetter]:
        """Lists what could not be delivered, oldest first, and why."""
        return await self._mail.dead()

    async def redeliver(self, message: str) -> int:
        """Has a dead letter delivered after all. Returns to how many recipients."""
        return await self._mail.redeliver(message)

    async def delegations(self) -> list[DelegationRecord]:
        """Tells what has become of delegations that the branch sees, oldest first."""
        return await self._mail.delegations()

    def presence(self) -> dict[str, Presence]:
        """Tells what each instance is at."""
        return self._mail.presence()


class AsyncBranchBoard:
    """The board of the branch's tree."""

    def __init__(self, running: RunningBranch) -> None:
        self._running = running

    async def post(self, body: Any, *, author: str = "") -> None:
        """Writes an entry, marked with this branch."""
        await self._running.family.waiting.aside(lambda: self._running.board.post(body, author))

    async def read(self, *, after: int = 0, limit: int = 1000) -> list[Posting]:
        """Returns entries of all branches of the tree, in order."""
        return await self._running.family.waiting.aside(lambda: self._running.board.read(after, limit))
