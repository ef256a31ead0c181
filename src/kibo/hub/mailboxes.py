"""All letters of one branch as its log has them: folded entry by entry, so that what is new is all that it costs.

An address is an instance's name and which of its handlers a letter is for: ``""`` for messages to the instance alone,
``Part.method`` for a method that handles events, ``~module.name`` for a function of a program outside, and
``?msg_...`` for who waits for the answer to a message. A subscription named ``=pattern`` has events come to the
instance alone, as messages do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from kibo.hub.entries import Address, Delegated, Ended, Marked, Sent, Subscribed, decoded
from kibo.hub.letters import Letter, step
from kibo.model.limits import MAX_DELEGATIONS, MAX_RECEIPTS, MAX_REMEMBERED_KEYS
from kibo.store.log import Entry

#: What the address of one who waits for an answer begins with, that of a function outside, and a subscription by which
#: events come to the instance itself.
WAITER: Final = "?"
FUNCTION: Final = "~"
INBOX: Final = "="
#: Bodies up to this stay in memory until all have handled them; others are read again.
_KEPT_BYTES: Final = 512

Place = tuple[str, int]


class Kept(NamedTuple):
    """A message some recipient of which is not done with it: its entry, or None where that is to be read again."""

    seq: int
    entry: Entry | None
    left: int


class Delegation(NamedTuple):
    """One that was begun: its entry and that entry's number and time, and how it ended where that is known."""

    seq: int
    at_s: float
    begun: Delegated
    ended: Ended | None = None


class Mailboxes:
    """The state of a branch's mail after the entries up to `seq`. Not thread-safe.

    Attributes:
        seq: The number of the last entry that is in it.
        letters: Those that are not consumed, by message and place.
        boxes: Those that are to be delivered, in order, by address.
        messages: Those that letters are of.
        subscriptions: Of functions outside, by address.
        settled: The newest letters that were consumed.
        delegations: The newest, by id.
        shared: Whether another branch has the same object: copy it before it changes.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.letters: dict[Place, Letter] = {}
        self.boxes: dict[Address, dict[Place, None]] = {}
        self.messages: dict[str, Kept] = {}
        self.subscriptions: dict[Address, Subscribed] = {}
        self.settled: OrderedDict[Place, Letter] = OrderedDict()
        self.delegations: OrderedDict[str, Delegation] = OrderedDict()
        self.shared = False
        self._keys: OrderedDict[tuple[str, str], str] = OrderedDict()
        #: Messages that had a key that was used before, with the one that had it.
        self._same: OrderedDict[str, str] = OrderedDict()

    def copy(self) -> Mailboxes:
        """Returns another that is the same, and goes its own way."""
        made = Mailboxes()
        made.seq = self.seq
        made.letters, made.messages = dict(self.letters), dict(self.messages)
        made.boxes = {address: dict(places) for address, places in self.boxes.items()}
        made.subscriptions = dict(self.subscriptions)
        made.settled, made.delegations = self.settled.copy(), self.delegations.copy()
        made._keys, made._same = self._keys.copy(), self._same.copy()
        return made

    # -- folding

    def fold(self, entries: Iterable[Entry]) -> None:
        """Takes in the next entries of the branch's log that are below ``hub``."""
        for entry in entries:
            self.take_in(entry, decoded(entry))

    def take_in(self, entry: Entry, form: Any) -> None:
        """Takes in one entry, whose body is decoded."""
        self.seq = entry.seq
        if isinstance(form, Sent):
            self._sent(entry, form)
        elif isinstance(form, Marked):
            for message, index in form.of:
                self._mark((message, index), entry, form.why)
        elif isinstance(form, Subscribed):
            address = (form.member, form.handler)
            if entry.kind == "hub.subscribed":
                self.subscriptions[address] = form
            else:
                self.subscriptions.pop(address, None)
        elif isinstance(form, Delegated):
            self.delegations.setdefault(form.id, Delegation(entry.seq, entry.at_s, form))
            _forget(self.delegations, MAX_DELEGATIONS)
        elif isinstance(form, Ended):
            known = self.delegations.get(form.id)
            if known is not None and known.ended is None:
                self.delegations[form.id] = known._replace(ended=form)

    def _sent(self, entry: Entry, sent: Sent) -> None:
        if sent.key is not None:
            first = self._keys.setdefault((sent.sender, sent.key), sent.id)
            _forget(self._keys, MAX_REMEMBERED_KEYS)
            if first != sent.id:
                self._same[sent.id] = first
                _forget(self._same, MAX_RECEIPTS)
                return
        if sent.id in self.messages:
            return
        for index, address in enumerate(sent.to):
            letter = Letter(sent.id, index, address, entry.seq)
            self.letters[sent.id, index] = letter
            self.boxes.setdefault(address, {})[sent.id, index] = None
        if sent.to:
            kept = entry if len(entry.body) <= _KEPT_BYTES else None
            self.messages[sent.id] = Kept(entry.seq, kept, len(sent.to))

    def _mark(self, place: Place, entry: Entry, why: str) -> None:
        letter = self.letters.get(place)
        if letter is None:
            return
        after = step(letter, entry.kind, entry.at_s, why)
        if after is letter:
            return
        box = self.boxes.setdefault(letter.address, {})
        if after.state == "consumed":
            del self.letters[place]
            self.settled[place] = after
            _forget(self.settled, MAX_RECEIPTS)
            self._let_go(letter.message)
        else:
            self.letters[place] = after
        if after.state in ("consumed", "dead"):
            box.pop(place, None)
        elif letter.state == "dead":
            box[place] = None
        if not box:
            del self.boxes[letter.address]

    def _let_go(self, message: str) -> None:
        kept = self.messages[message]
        if kept.left > 1:
            self.messages[message] = kept._replace(left=kept.left - 1)
        else:
            del self.messages[message]

    # -- looking

    def known(self, sender: str, key: str) -> str | None:
        """Returns the message that a sender has sent with a key, if it is one of the newest that had one."""
        return self._keys.get((sender, key))

    def original(self, message: str) -> str:
        """Returns the message itself, or the one that had its key first."""
        return self._same.get(message, message)

    def waiting(self, address: Address) -> int:
        """Returns how many letters wait at an address."""
        return len(self.boxes.get(address, ()))

    def deliverable(self, address: Address, now_s: float, held: Iterable[Place] = ()) -> Iterator[Letter]:
        """Yields the letters that may be delivered at an address now, in order: up to one that has to wait.

        Args:
            address: Whose.
            now_s: The time, in seconds since 1970.
            held: Those that somebody is at.
        """
        for place in self.boxes.get(address, ()):
            letter = self.letters[place]
            if letter.due_s > now_s or place in held:
                return
            yield letter

    def of(self, message: str) -> list[Letter]:
        """Returns the letters of a message that are known, by place."""
        message = self.original(message)
        found: list[Letter] = []
        while True:
            place = (message, len(found))
            letter = self.letters.get(place) or self.settled.get(place)
            if letter is None:
                return found
            found.append(letter)

    def dead(self) -> list[Letter]:
        """Returns the letters that will not be delivered, oldest first."""
        return sorted((each for each in self.letters.values() if each.state == "dead"), key=_order)


def _order(letter: Letter) -> tuple[int, int]:
    return letter.seq, letter.number


def _forget(newest: OrderedDict[Any, Any], most: int) -> None:
    while len(newest) > most:
        newest.popitem(last=False)
