"""What differs between two worlds besides their files: context, messages, effects and labels.

The log says where two sides part, and only what each has of its own since then is read. Effects are in no log: one is
in the world of a snapshot if that descends from one of the branch that asked for it, which was sealed after that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Generic, Literal, TypeVar

from kibo.branch import finding
from kibo.branch.deltas import BranchChange
from kibo.branch.history import History
from kibo.branch.points import Side
from kibo.branch.records import SnapshotRecord
from kibo.context import entries
from kibo.context.entries import KIND, ContextEntry
from kibo.effects.ledger import Ledger
from kibo.effects.records import Effect
from kibo.hub.entries import HUB, Marked, Sent, decoded
from kibo.hub.mailboxes import WAITER
from kibo.hub.post import Post
from kibo.model.errors import MessageUnknown, SnapshotUnknown
from kibo.model.ids import BranchId
from kibo.model.message import Delivery, Message
from kibo.store.database import Transaction
from kibo.store.log import MAX_PAGE, Entry

T = TypeVar("T")

#: Entries of the log that are read at once.
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Difference(Generic[T]):
    """Something that one of two worlds has and the other has not.

    Attributes:
        kind: ``added``: the second alone has it; ``removed``: the first alone.
        item: It: an entry of the context, an effect, or a label.
    """

    kind: Literal["added", "removed"]
    item: T


@dataclass(frozen=True, slots=True)
class MessageDifference:
    """A message or an event that one of two worlds has and the other has not, or of which something else has become.

    Attributes:
        kind: ``added``, ``removed``, or ``changed``: both have it, and its deliveries differ.
        message: It, as it was sent.
        before: What has become of it in the first world, by recipient. Empty where that has it not, where nobody
            listens to it, and where it was handled so long ago that nobody knows any more.
        after: The same in the second world.
    """

    kind: Literal["added", "changed", "removed"]
    message: Message
    before: tuple[Delivery, ...]
    after: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two worlds. What is removed comes before what is added; each in the order of its world.

    Attributes:
        files: By instance, in order of path.
        context: Entries of the context; those that a merge or a commit brought along are the same entry.
        messages: Messages and events; answers to those who wait for them are left out.
        effects: What boxes have asked the outside world to change, as it stands now: held, sent, dropped and so on.
        labels: Names of snapshots that one of the two alone descends from.
    """

    files: tuple[BranchChange, ...]
    context: tuple[Difference[ContextEntry], ...]
    messages: tuple[MessageDifference, ...]
    effects: tuple[Difference[Effect], ...]
    labels: tuple[Difference[str], ...]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.files or self.context or self.messages or self.effects or self.labels)


def compare(history: History, files: Iterator[BranchChange], one: Side, two: Side) -> Comparison:
    """Compares two worlds. Cost is in what each has since they parted, and for effects in how deep they are.

    Args:
        history: Where they are recorded.
        files: What differs between their files.
        one: Where to begin.
        two: What it became.
    """
    parting = history.log.parting(one.of, two.of)
    ours, theirs = _Line(history, one, parting), _Line(history, two, parting)
    effects, labels = _outside(history, one, two)
    return Comparison(
        tuple(files), _differences(ours.context(), theirs.context()), _messages(ours, theirs), effects, labels
    )


def _differences(ours: dict[str, T], theirs: dict[str, T]) -> tuple[Difference[T], ...]:
    removed: list[Difference[T]] = [
        Difference("removed", item) for name, item in ours.items() if name not in theirs
    ]
    added: list[Difference[T]] = [
        Difference("added", item) for name, item in theirs.items() if name not in ours
    ]
    return (*removed, *added)


class _Line:
    """What one side has of the log, and where the other parts from it."""

    def __init__(self, history: History, side: Side, parting: int) -> None:
        self._log, self._of, self._parting = history.log, side.of, parting
        self.post: Final = Post(history.log, side.of)
        #: Messages that were sent since, in order; and those whose letters something has become of since.
        self.sent: dict[str, Message] = {each.id: each for each in self._messages(parting)}
        self.marked: set[str] = set()
        for entry in self._entries((HUB,)):
            form = decoded(entry)
            if isinstance(form, Marked):
                self.marked.update(message for message, _ in form.of)
            elif isinstance(form, Sent) and form.id not in self.sent:
                self.marked.add(form.id)

    def _entries(self, kinds: tuple[str, ...]) -> Iterator[Entry]:
        after = self._parting
        while page := self._log.read(self._of, after=after, limit=MAX_PAGE, kinds=kinds):
            yield from page
            after = page[-1].seq

    def context(self) -> dict[str, ContextEntry]:
        """Returns the entries of the context since, by id."""
        found = (entries.read(entry) for entry in self._entries((KIND,)))
        return {each.id: each for each in found if each is not None}

    def _messages(self, after: int) -> Iterator[Message]:
        while page := self.post.history(after, _PAGE):
            yield from (each for each in page if not each.to.startswith(WAITER))
            after = page[-1].seq

    def before(self, wanted: set[str]) -> list[Message]:
        """Returns those of some messages that were sent before, in order."""
        found = takewhile(lambda each: each.seq <= self._parting, self._messages(0) if wanted else ())
        return [each for each in found if each.id in wanted]

    def deliveries(self, message: str) -> tuple[Delivery, ...]:
        """Tells what has become of a message."""
        try:
            return tuple(self.post.receipt(message))
        except MessageUnknown:
            return ()  # handled long ago


def _messages(ours: _Line, theirs: _Line) -> tuple[MessageDifference, ...]:
    removed = [
        MessageDifference("removed", each, ours.deliveries(name), ())
        for name, each in ours.sent.items()
        if name not in theirs.sent
    ]
    added = [
        MessageDifference("added", each, (), theirs.deliveries(name))
        for name, each in theirs.sent.items()
        if name not in ours.sent
    ]
    both = [each for name, each in theirs.sent.items() if name in ours.sent]
    compared = (
        MessageDifference("changed", each, ours.deliveries(each.id), theirs.deliveries(each.id))
        for each in theirs.before(ours.marked | theirs.marked) + both
    )
    return (*removed, *(each for each in compared if each.before != each.after), *added)


# -- what no log has


@dataclass(frozen=True, slots=True)
class _Ancestry:
    """All that a side descends from, itself included: the snapshots, and until when each branch is part of it."""

    snapshots: dict[str, SnapshotRecord]
    until: dict[str, float]

    def has(self, effect: Effect) -> bool:
        return effect.created_s <= self.until.get(effect.origin, -math.inf)

    def labels(self) -> dict[str, str]:
        line = sorted(self.snapshots.values(), key=lambda each: each.created_s)
        return {label: label for snapshot in line for label in snapshot.labels}


def _ancestry(tx: Transaction, side: Side) -> _Ancestry:
    found: dict[str, SnapshotRecord] = {}
    until: dict[str, float] = {}
    pending: list[str] = [side.snapshot.id]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        try:
            made = found[name] = finding.snapshot(tx, name)
        except SnapshotUnknown:
            continue  # the other parent of a merge may have been collected
        until[made.branch] = max(until.get(made.branch, -math.inf), made.created_s)
        pending += [each for each in (made.parent, made.other) if each is not None]
    if side.of.startswith(BranchId.prefix):
        until[side.of] = math.inf
    return _Ancestry(found, until)


def _outside(
    history: History, one: Side, two: Side
) -> tuple[tuple[Difference[Effect], ...], tuple[Difference[str], ...]]:
    ours, theirs = history.store.read(lambda tx: (_ancestry(tx, one), _ancestry(tx, two)))
    ledger = Ledger(history.store)
    branches = ours.until.keys() | theirs.until.keys()
    parted = [each for each in branches if ours.until.get(each) != theirs.until.get(each)]
    effects = [effect for branch in parted for effect in ledger.listed(branch) if effect.origin == branch]
    effects.sort(key=lambda effect: effect.created_s)
    before, after = ({str(each.id): each for each in effects if side.has(each)} for side in (ours, theirs))
    return _differences(before, after), _differences(ours.labels(), theirs.labels())
