"""The mail of one branch: what is sent in it, and what becomes of that. Writes it into the branch's log, and knows it.

Decisions are made on what is in memory, which is brought up to date by what was written since. Several threads that
write at once have one transaction together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import msgspec

from kibo.hub.bodies import checked_body, checked_key
from kibo.hub.entries import HUB, Address, Delegated, Ended, Marked, Sent, Subscribed, decoded, encoded
from kibo.hub.letters import Letter
from kibo.hub.mailboxes import WAITER, Delegation, Mailboxes, Place
from kibo.model.errors import InvalidInput, MailboxFull, MessageUnknown
from kibo.model.ids import MessageId
from kibo.model.limits import MAX_BATCH, MAX_DELIVERIES, MAX_MAILBOX, MAX_RECIPIENTS, MAX_SUBSCRIPTIONS
from kibo.model.message import DeadLetter, Delivery, Message
from kibo.store.crash import point as crash_point
from kibo.store.log import MAX_PAGE, Entry, Log

Draft = tuple[str, msgspec.Struct]

#: Entries that one transaction writes at most: a few milliseconds, for which other writers of the same file wait.
_TOGETHER: Final = 1000


#: Messages, which may all be large, that are taken or read at once: together they fit into a frame.
_LARGE: Final = 8
#: Characters of what a handler raised that are kept.
_MAX_WHY: Final = 2000
#: Why a letter is dead whose sender has stopped to wait.
_LATE: Final = "its sender does not wait for the answer any more"


class Ticket:
    """What one thread wants written, and what came of it."""

    __slots__ = ("done", "drafts", "error", "gate", "quiet")

    def __init__(self, drafts: Sequence[Draft], *, quiet: bool) -> None:
        self.quiet = quiet
        self.gate = threading.Lock()
        self.gate.acquire()
        self.drafts = [(kind, encoded(form), form) for kind, form in drafts]
        self.done = False
        self.error: BaseException | None = None


class Post:
    """The mail of one branch. Thread-safe.

    Args:
        log: The log.
        branch: Its id.
        epoch: What this process writes with; None where it does not run the branch.
        changed: Called after what was written, on the thread that wrote it, with no lock held.
        boxes: What is known of it already: that of the branch that it was forked from.
        telling: What wakes others who follow the branch, around each write.
    """

    def __init__(
        self,
        log: Log,
        branch: str,
        epoch: int | None = None,
        changed: Callable[[], None] = lambda: None,
        boxes: Mailboxes | None = None,
        telling: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._log = log
        self.branch: Final = branch
        self._epoch = epoch
        self._changed, self._telling = changed, telling
        self._guard = threading.RLock()
        self._queue: deque[Ticket] = deque()
        #: Whether a thread writes, or is about to.
        self._writing = False
        self._boxes = boxes
        #: Letters that this process is at. One that is not, and was taken, has nobody any more.
        self._held: set[Place] = set()
        self._turn = 0

    # -- knowing

    def boxes(self) -> Mailboxes:
        """Returns what is known, up to date with the log. Not to be changed."""
        with self._guard:
            self._catch_up()
            assert self._boxes is not None
            return self._boxes

    def _known(self) -> Mailboxes:
        """What is known, without a look at the log where this process has had one: it alone writes to the branch."""
        if self._boxes is None:
            self._catch_up()
        assert self._boxes is not None
        return self._boxes

    def _own(self) -> Mailboxes:
        boxes = self._known()
        if boxes.shared:
            self._boxes = boxes = boxes.copy()
        return boxes

    def _catch_up(self) -> None:
        boxes = self._boxes or Mailboxes()
        tail = self._log.length(self.branch)
        while boxes.seq < tail:
            if boxes.shared:
                boxes = boxes.copy()
            found = self._log.read(self.branch, after=boxes.seq, limit=MAX_PAGE, kinds=(HUB,))
            boxes.fold(found)
            if len(found) < MAX_PAGE:
                boxes.seq = max(boxes.seq, tail)
        self._boxes = boxes

    @property
    def seq(self) -> int:
        """The number of the last entry of the branch that is known."""
        with self._guard:
            return self._known().seq

    def share(self) -> Mailboxes | None:
        """Returns what is known for a fork that begins here; None where that is nothing."""
        with self._guard:
            if self._boxes is not None:
                self._catch_up()
                self._boxes.shared = True
            return self._boxes

    def replace(self, boxes: Mailboxes | None) -> None:
        """Goes on from what is known of another branch, which this one has become; None for finding out anew."""
        with self._guard:
            self._boxes = boxes

    @property
    def held(self) -> frozenset[Place]:
        """The letters that this process is at."""
        with self._guard:
            return frozenset(self._held)

    def hold(self, places: Iterable[Place]) -> None:
        """Takes over letters that this process is at in a branch that has become this one."""
        with self._guard:
            self._held.update(places)

    # -- sending

    def send(
        self,
        sender: str,
        to: Sequence[Address],
        body: Any,
        *,
        event: str = "",
        key: str | None = None,
        reply_to: str | None = None,
        until: float = 0.0,
        done: Letter | None = None,
        inside: bool = False,
    ) -> MessageId:
        """Writes a message. On the disk when it returns.

        Args:
            sender: The instance.
            to: Who gets it; who may be sent to, the caller has found out.
            body: A value of JSON, or bytes.
            event: What it is called, for an event.
            key: A sender's message with a key that another of its messages has is that one: nothing is sent.
            reply_to: The message that it answers.
            until: When the sender stops to wait for an answer.
            done: The letter that is consumed with it, both or neither.
            inside: Whether code in a box sends it.

        Returns:
            The message's id; of several with one key, the first's.

        Raises:
            MessageInvalid: The body or the key is not what a message may have.
            MailboxFull: One of the recipients is too far behind.
            BranchClosed, BranchTaken: The branch is not open, or not this process's. Nothing was written.
        """
        value, raw = checked_body(body)
        checked_key(key)
        if len(to) > MAX_RECIPIENTS:
            raise InvalidInput(
                f"{len(to)} recipients of one event",
                hint=f"At most {MAX_RECIPIENTS}: split them into groups.",
            )
        with self._guard:
            boxes = self._known()
            if key is not None and (first := boxes.known(sender, key)) is not None:
                return MessageId(first)
            for address in to:
                self._check_room(address)
        made = str(MessageId.new())
        sent = Sent(made, sender, list(to), event, value, raw, key, reply_to, until, inside)
        drafts: list[Draft] = [("hub.sent", sent)]
        if done is not None:
            drafts.append(("hub.consumed", Marked([(done.message, done.number)], inside=inside)))
        self._write(drafts)
        with self._guard:
            return MessageId(self._known().original(made))

    def room(self, addresses: Iterable[Address]) -> bool:
        """Tells whether each of some recipients would take another message."""
        with self._guard:
            return all(self._known().waiting(address) < MAX_MAILBOX for address in addresses)

    def _check_room(self, address: Address) -> None:
        waiting = self._known().waiting(address)
        if waiting >= MAX_MAILBOX:
            raise MailboxFull(
                f"{waiting} messages wait for {address[0]}",
                details={"instance": address[0], "handler": address[1], "waiting": waiting},
            )

    def one_of(self, group: Sequence[Address]) -> Address:
        """Chooses who of a queue group gets the next event: who has fewest waiting, in turn."""
        with self._guard:
            boxes = self._known()
            self._turn += 1
            turned = [group[(self._turn + index) % len(group)] for index in range(len(group))]
            return min(turned, key=boxes.waiting)

    # -- subscriptions

    def subscribe(self, subscribed: Subscribed) -> None:
        """Notes that a function wants to hear of events. One that is noted already stays."""
        with self._guard:
            known = self._known().subscriptions
            address = (subscribed.member, subscribed.handler)
            if known.get(address) == subscribed:
                return
            if len(known) >= MAX_SUBSCRIPTIONS:
                raise InvalidInput(
                    f"the branch has {len(known)} subscriptions",
                    hint="Subscribe once to a pattern, and not for each event.",
                )
        self._write([("hub.subscribed", subscribed)])

    def unsubscribe(self, address: Address) -> None:
        """Notes that it does not any more; what it has not handled is dead."""
        with self._guard:
            boxes = self._known()
            if address not in boxes.subscriptions:
                return
            left = list(boxes.boxes.get(address, ()))
        drafts: list[Draft] = [("hub.unsubscribed", Subscribed(*address))]
        if left:
            drafts.append(("hub.dead", Marked(left, "its subscription was ended")))
        self._write(drafts)

    # -- delivering

    def ready(self, address: Address) -> bool:
        """Tells whether a letter can be delivered at an address now."""
        with self._guard:
            return next(self._known().deliverable(address, time.time(), self._held), None) is not None

    def addresses(self) -> list[Address]:
        """Returns the addresses at which letters wait."""
        with self._guard:
            return list(self._known().boxes)

    def due_s(self) -> float | None:
        """Returns how many seconds it is until the next letter is to be delivered once more; None for never."""
        with self._guard:
            boxes = self._known()
            heads = (boxes.letters[next(iter(box))] for box in boxes.boxes.values())
            due = min((letter.due_s for letter in heads if letter.due_s), default=None)
            return None if due is None else max(0.0, due - time.time())

    def take(self, address: Address, most: int = MAX_BATCH) -> list[tuple[Letter, Message]]:
        """Takes the next letters of an address, as many as can be delivered now. They are this caller's until settled.

        Raises:
            BranchClosed, BranchTaken: The branch is not open, or not this process's.
        """
        with self._guard:
            boxes = self._known()
            found: list[Letter] = []
            large = 0
            for letter in boxes.deliverable(address, time.time(), self._held):
                if letter.attempts and found:
                    break  # one that was taken before goes alone: what it does then is told from the others
                found.append(letter)
                large += boxes.messages[letter.message].entry is None
                if letter.attempts or len(found) == most or large == _LARGE:
                    break
            self._held.update((each.message, each.number) for each in found)
        if not found:
            return []
        try:
            late = [each for each in found if self._late(each)]
            if late:
                self._write([("hub.dead", Marked(_places(late), _LATE))])
            worn = [each for each in found if each not in late and each.attempts >= MAX_DELIVERIES]
            if worn:
                why = worn[0].why or "whatever handled it ended before it was done"
                self._write([("hub.dead", Marked(_places(worn), why))])
            left = [each for each in found if each not in late and each not in worn]
            if left:
                self._write([("hub.taken", Marked(_places(left)))], quiet=True)
                crash_point("mail.taken")
            with self._guard:
                self._held.difference_update(_places(late + worn))
                return [
                    (now, self._message(now))
                    for each in left
                    if (now := self._known().letters.get((each.message, each.number))) is not None
                ]
        except BaseException:
            self._free(found)
            raise

    def _late(self, letter: Letter) -> bool:
        until = self._sent(letter).until
        return bool(until) and until < time.time()

    def let_go(self, letters: Iterable[Letter]) -> None:
        """Gives letters back that were taken: they are delivered again, as by another process."""
        self._free(letters)
        self._changed()

    def _free(self, letters: Iterable[Letter]) -> None:
        with self._guard:
            self._held.difference_update(_places(letters))

    def settle(
        self,
        done: Sequence[Letter] = (),
        failed: Letter | None = None,
        why: str = "",
        *,
        unseen: Sequence[Letter] = (),
        final: bool = False,
        inside: bool = False,
    ) -> None:
        """Notes what has come of letters that were taken: all of it, or nothing.

        Args:
            done: Those that have been handled.
            failed: One that could not be: it is delivered again after a while, or is dead after several times.
            why: What was in its way.
            unseen: Those that no handler has seen: they count as not taken.
            final: Whether another time would not help the one that failed.
            inside: Whether it was code in a box that handled them.
        """
        drafts: list[Draft] = []
        letters = [*done, *unseen]
        if done:
            drafts.append(("hub.consumed", Marked(_places(done), inside=inside)))
        if failed is not None:
            last = final or failed.attempts >= MAX_DELIVERIES
            drafts.append(("hub.dead" if last else "hub.failed", Marked(_places([failed]), why[:_MAX_WHY])))
            letters.append(failed)
        if unseen:
            drafts.append(("hub.returned", Marked(_places(unseen))))
        try:
            if drafts:
                crash_point("mail.before_settled")
                self._write(drafts, quiet=True)
                crash_point("mail.settled")
        finally:
            self.let_go(letters)

    def asker(self, letter: Letter) -> str:
        """Returns who waits for the answer to a letter; empty where nobody does."""
        return _asker(self._sent(letter))

    def reply(self, letter: Letter, body: Any, *, inside: bool = False) -> None:
        """Answers a letter whose sender waits, and notes that it has been handled, both or neither."""
        if self._late(letter):
            self.settle(failed=letter, why=_LATE, final=True)
            return
        sent = self._sent(letter)
        try:
            self.send(
                letter.address[0],
                [(sent.sender, WAITER + letter.message)],
                body,
                reply_to=letter.message,
                until=sent.until,
                done=letter,
                inside=inside,
            )
        finally:
            self.let_go([letter])

    def bury(self, address: Address, why: str) -> None:
        """Gives up what waits at an address that nobody has any more."""
        with self._guard:
            left = [place for place in self._known().boxes.get(address, ()) if place not in self._held]
        if left:
            self._write([("hub.dead", Marked(left, why))])

    # -- delegations

    def delegate(self, begun: Delegated) -> None:
        """Notes that an instance has another do something."""
        self._write([("hub.delegated", begun)], quiet=True)
        crash_point("delegation.noted")

    def end(self, ended: Ended) -> None:
        """Notes how that has ended."""
        crash_point("delegation.before_end")
        self._write([("hub.ended", msgspec.structs.replace(ended, why=ended.why[:_MAX_WHY]))], quiet=True)

    def delegations(self) -> list[Delegation]:
        """Returns the newest delegations, oldest first."""
        with self._guard:
            return list(self.boxes().delegations.values())

    # -- looking

    def receipt(self, message: str) -> list[Delivery]:
        """Tells what has become of a message, by recipient.

        Raises:
            MessageUnknown: The branch has none such, or has consumed it long ago.
        """
        with self._guard:
            boxes = self._known()
            found = boxes.of(message)
        if not found:
            if self._find(message) is None:
                raise self._unknown(message)
            return []  # an event that nobody listens to
        return [Delivery(*letter.address, letter.state, letter.attempts, letter.why) for letter in found]

    def _find(self, message: str) -> Entry | None:
        for entry in reversed(self._log.newest(self.branch, 1000, kinds=("hub.sent",))):
            if message.encode() in entry.body and decoded(entry).id == message:
                return entry
        return None

    def listed(self) -> list[tuple[Letter, Message]]:
        """Lists the letters that are not consumed, oldest first."""
        with self._guard:
            letters = sorted(self.boxes().letters.values(), key=lambda each: (each.seq, each.number))
            return [(letter, self._message(letter)) for letter in letters]

    def dead(self, member: str | None = None) -> list[DeadLetter]:
        """Lists the letters that will not be delivered, oldest first; of one recipient, or of all."""
        return list(self.dead_after(member))

    def dead_after(self, member: str | None, after: int = 0) -> Iterator[DeadLetter]:
        """Yields the same from a cursor on, each read when it is asked for.

        Args:
            member: Whose; None for all.
            after: The `Message.seq` of the last one that is known.
        """
        with self._guard:
            dead = [
                each
                for each in self.boxes().dead()
                if each.seq > after and (member is None or each.address[0] == member)
            ]
        for each in dead:
            yield DeadLetter(self._message(each), each.address[1], each.why)

    def revive(self, message: str, member: str | None = None) -> int:
        """Has the dead letters of a message delivered after all. Returns how many.

        Raises:
            MessageUnknown: It has none.
        """
        with self._guard:
            dead = [
                each
                for each in self.boxes().of(message)
                if each.state == "dead" and member in (None, each.address[0])
            ]
        if not dead:
            raise MessageUnknown(
                f"branch {self.branch} has no dead letter of message {message}",
                details={"message": message},
            )
        self._write([("hub.revived", Marked(_places(dead)))])
        return len(dead)

    def history(self, after: int = 0, limit: int = 1000) -> list[Message]:
        """Returns what was sent in the branch, from a cursor on: messages and events, handled or not, in order.

        Args:
            after: The `Message.seq` of the last one that is known; 0 for the beginning.
            limit: How many at most, 1 to 10,000.
        """
        entries = self._log.read(self.branch, after=after, limit=limit, kinds=("hub.sent",))
        return [_message(entry, decoded(entry), "") for entry in entries]

    def overheard(self, member: str, after: int = 0) -> Iterator[tuple[int, Message | None]]:
        """Yields what an instance may read of what was sent: events, and messages from it or to it, in order.

        Args:
            member: The instance.
            after: The number of the log to begin behind.

        Yields:
            The number of each message in the log, and the message; None for one of others.
        """
        while found := self._log.read(self.branch, after=after, limit=_LARGE, kinds=("hub.sent",)):
            for entry in found:
                sent: Sent = decoded(entry)
                after = entry.seq
                mine = sent.event or member == sent.sender or any(name == member for name, _ in sent.to)
                yield after, _message(entry, sent, "") if mine else None

    def sender_of(self, message: str) -> str:
        """Returns who has sent a message.

        Raises:
            MessageUnknown: The branch has none such, or has consumed it long ago.
        """
        with self._guard:
            found = self.boxes().of(message)
        entry = self._entry(found[0]) if found else self._find(message)
        if entry is None:
            raise self._unknown(message)
        sent: Sent = decoded(entry)
        return sent.sender

    def _unknown(self, message: str) -> MessageUnknown:
        return MessageUnknown(
            f"branch {self.branch} knows no message {message}", details={"message": message}
        )

    def _entry(self, letter: Letter) -> Entry:
        with self._guard:
            kept = self._known().messages.get(letter.message)
        if kept is not None and kept.entry is not None:
            return kept.entry
        return self._log.read(self.branch, after=letter.seq - 1, limit=1, kinds=("hub.sent",))[0]

    def _sent(self, letter: Letter) -> Sent:
        found: Sent = decoded(self._entry(letter))
        return found

    def _message(self, letter: Letter) -> Message:
        entry = self._entry(letter)
        return _message(entry, decoded(entry), letter.address[0], max(1, letter.attempts))

    # -- writing

    def _write(self, drafts: Sequence[Draft], *, quiet: bool = False) -> None:
        ticket = Ticket(drafts, quiet=quiet)
        tells = leads = False
        try:
            with self._guard:
                self._queue.append(ticket)
                leads, self._writing = not self._writing, True
            if not leads:
                ticket.gate.acquire()  # until another thread has written it, or leaves it to this one to write
                leads = not ticket.done
            if leads:
                tells = self._write_next()
        except BaseException:
            with self._guard:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                    if leads or ticket.gate.acquire(blocking=False):
                        self._pass_on()
            raise
        if tells:
            self._changed()
        if ticket.error is not None:
            raise ticket.error

    def _pass_on(self) -> None:
        """Leaves it to the next in the queue to write; the caller has the guard."""
        if self._queue:
            self._queue[0].gate.release()
        else:
            self._writing = False

    def _write_next(self) -> bool:
        """Writes for all who wait, in order. Returns whether others are to be told of it."""
        with self._guard:
            taken: list[Ticket] = []
            count = 0
            while self._queue and (not taken or count + len(self._queue[0].drafts) <= _TOGETHER):
                taken.append(self._queue.popleft())
                count += len(taken[-1].drafts)
        try:
            self._write_all([draft for ticket in taken for draft in ticket.drafts])
        except Exception as error:  # noqa: BLE001 - each thread raises it, for what it wanted written
            for ticket in taken:
                ticket.error = error
            with self._guard:
                self._boxes = None  # it is not known what is there: the log tells
        except BaseException:
            # This thread was interrupted, and nobody else: the next writes for those that are left.
            with self._guard:
                self._boxes = None
                self._queue.extendleft(reversed(taken[1:]))
                del taken[1:]
            raise
        finally:
            for ticket in taken:
                ticket.done = True
            with self._guard:
                self._pass_on()
            for ticket in taken[1:]:
                ticket.gate.release()
        return any(not ticket.quiet for ticket in taken)

    def _write_all(self, drafts: Sequence[tuple[str, bytes, msgspec.Struct]]) -> None:
        with self._telling():
            numbers = self._log.extend(
                self.branch, [(kind, body) for kind, body, _ in drafts], epoch=self._epoch
            )
        now = time.time()
        with self._guard:
            boxes = self._own()
            if boxes.seq != numbers[0] - 1:
                # Another process, or another part of this one, has written too.
                self._catch_up()
                return
            for seq, (kind, body, form) in zip(numbers, drafts, strict=True):
                boxes.take_in(Entry(seq, kind, body, now, None, 0), form)


def _places(letters: Iterable[Letter]) -> list[Place]:
    return [(each.message, each.number) for each in letters]


def _asker(sent: Sent) -> str:
    return sent.sender if sent.until and not sent.reply_to else ""


def _message(entry: Entry, sent: Sent, to: str, attempt: int = 1) -> Message:
    return Message(
        sent.id,
        sent.sender,
        to or ", ".join(dict.fromkeys(member for member, _ in sent.to)),
        sent.body if sent.raw is None else sent.raw,
        sent.event,
        sent.key,
        sent.reply_to,
        bool(_asker(sent)),
        attempt,
        entry.seq,
        entry.at_s,
        entry.origin,
    )
