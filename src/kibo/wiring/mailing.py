"""The mail of instances that were spawned outside of any branch: a branch of their own, made by the first that sends.

It has no files, and ends with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from kibo.branch.mail import Mail
from kibo.branch.mailroom import Mailroom
from kibo.hub.post import Post
from kibo.model.ids import BranchId
from kibo.runtime.conversation import Conversation
from kibo.runtime.instance import conversation_of, spawned_of
from kibo.runtime.mailing import listeners
from kibo.runtime.waiting import Blocking, Waiting
from kibo.wiring.records import Records

#: What the branch is called in `kibo tree`.
NAME: Final = "unbranched"
GOAL: Final = "messages between instances that are in no branch"


class Guest:
    """An instance that is in no branch. Kept by nobody: unreferenced, it ends."""

    __slots__ = ("face",)

    def __init__(self, face: Any) -> None:
        self.face: Final = face

    @property
    def talk(self) -> Conversation:
        """The conversation with its guest."""
        return conversation_of(self.face)


class Lobby:
    """The instances of one process, or of one event loop of it, that are in no branch and have sent or received.

    Args:
        records: Where their branch is recorded.
        waiting: How they are waited for.
    """

    def __init__(self, records: Records, waiting: Waiting) -> None:
        self._faces: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._history = records.history
        self._record = records.passing(GOAL, NAME)

        def make_post(changed: Any) -> Post:
            record = self._record
            return Post(self._history.log, record.id, record.epoch, changed, None, records.telling)

        room = Mailroom(waiting, make_post, self._members, lambda _seq: False)
        record = partial(self._history.get, self._record.id)
        self.mail: Final = Mail(NAME, room, self._members, self._knows, record, records.owner)
        records.lobbies.append(self)
        records.listen()

    def _members(self) -> Mapping[str, Guest]:
        return {name: Guest(face) for name, face in self._faces.items()}

    def _knows(self, face: Any) -> bool:
        if isinstance(face.branch, BranchId):
            self.join(face)
        return self._faces.get(face._member) is face

    def gather(self) -> None:
        """Lets those in whose boxes handle messages or events, and that have not sent anything yet."""
        for face in listeners():
            if isinstance(face.branch, BranchId) and not face._member and self._is_ours(face):
                self.join(face)

    def _is_ours(self, face: Any) -> bool:
        """Tells whether one is this lobby's: not one that a box in a branch has spawned, which acts for that branch."""
        if spawned_of(face).asker.branch:
            return False
        return isinstance(conversation_of(face).waiting, Blocking) != self.mail.room.on_loop

    def join(self, face: Any) -> None:
        """Lets an instance in."""
        if not face._member:
            face._member = str(face.id)
        self._faces[face._member] = face

    def close(self) -> None:
        """Ends the branch: nothing of it runs any more."""
        self.mail.room.close()
        self._history.finish(self._record.id)


class Lobbies:
    """Those of one process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[Hashable, Lobby] = {}

    def mail_of(self, face: Any, records: Records) -> Mail:
        """Returns what brings the mail of an instance that is in no branch, of either face."""
        waiting = conversation_of(face).waiting
        where = None if isinstance(waiting, Blocking) else waiting.loop()  # type: ignore[attr-defined]
        with self._guard:
            lobby = self._open.get(where)
            if lobby is None or lobby not in records.lobbies:
                lobby = self._open[where] = Lobby(records, waiting)
        lobby.join(face)
        lobby.gather()
        return lobby.mail


lobbies: Final = Lobbies()
