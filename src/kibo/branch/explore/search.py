"""The decisions of an exploration: one state machine between a policy and whatever carries its actions out.

`Search` knows no thread, no clock and no world. It is told what happened and answers with orders. It keeps the rules
that no policy can break: at most one winner; never more forks than the budget grants, nor more work at once than there
are workers; whatever is not part of the winner's line is aborted once the outcome is decided; and an end, always.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kibo.branch.explore.decisions import (
    Action,
    Answered,
    Ask,
    BudgetSpent,
    Event,
    Failed,
    Finished,
    Fork,
    GiveUp,
    Policy,
    Score,
    Scored,
    Started,
    Stop,
    Task,
    Win,
)
from kibo.branch.explore.exploration import AttemptState
from kibo.model import errors
from kibo.model.errors import InvalidInput
from kibo.model.limits import MAX_ATTEMPTS


@dataclass(frozen=True)
class Launch:
    """An order: fork one world, and run each attempt's strategy in its fork."""

    parent: int | None
    attempts: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """An order: call `by` with the worlds of these attempts, and report under `key`."""

    key: int
    attempts: tuple[int | None, ...]
    by: Callable[..., Any]
    score: bool


@dataclass(frozen=True)
class Abort:
    """An order: end these attempts' worlds, those that run first."""

    attempts: tuple[int, ...]


Order = Launch | Question | Abort


@dataclass(frozen=True)
class Outcome:
    """How it ended: the winner's number, or None, and why."""

    winner: int | None
    reason: str


@dataclass
class Row:
    """What is known of one attempt."""

    number: int
    fork: Fork
    depth: int
    state: AttemptState = "queued"
    value: Any = None
    score: float | None = None
    error: BaseException | None = None
    ended: bool = False  # its world was aborted, or there never was one
    children: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """What a watcher is told: an attempt's state is another, or it has a score."""

    kind: str
    attempt: int


class Search:
    """One exploration. Every method that reports something returns the orders that follow from it.

    Args:
        policy: What decides.
        task: What is to be explored.
        workers: How many strategies and questions may run at once.
        grant: Takes up to so many branches from the budget and returns how many it got.
    """

    def __init__(self, policy: Policy[Any], task: Task, workers: int, grant: Callable[[int], int]) -> None:
        if workers < 1:
            raise InvalidInput(f"{workers} workers cannot explore", hint="Give 1 or more.")
        self._policy = policy
        self._workers = workers
        self._grant = grant
        self._state = policy.start(task)
        self.rows: list[Row] = []
        self.outcome: Outcome | None = None
        self.changes: list[Change] = []
        self._waiting: deque[int] = deque()  # attempts that wait for a worker
        self._asked: deque[Question] = deque()  # questions that do
        self._open: dict[int, Question] = {}  # questions under way
        self.busy = 0  # attempts that occupy a worker
        self._keys = 0
        self._events: deque[Event] = deque()
        self._orders: list[Order] = []
        self._spent = ""  # the resource that ended everything
        self._running_out = ""
        self._refused = False  # a fork was, for want of branches

    # What happens.

    def begin(self, spent: str = "") -> list[Order]:
        """Starts it; with a budget of which this resource is used up already, only to end it."""
        self._spent = spent
        return self._after(Started(), *([BudgetSpent(spent)] if spent else []))

    def forked(self, number: int) -> list[Order]:
        """An attempt's world is there and its strategy runs."""
        row = self.rows[number]
        if row.state == "starting":
            self._move(row, "running")
        return []

    def returned(self, number: int, value: Any) -> list[Order]:
        """A strategy returned."""
        row = self.rows[number]
        if row.state == "held":  # judged already: the winner, whose effect has happened
            row.state, row.value = "finished", value
            return []
        if row.state != "running":
            return []
        row.value = value
        self.busy -= 1
        self._move(row, "finished")
        return self._after(Finished(number, value))

    def raised(self, number: int, error: BaseException) -> list[Order]:
        """A strategy raised, or its world could not be forked."""
        row = self.rows[number]
        if row.state == "held":
            row.state, row.error = "failed", error
            return []
        if row.state not in ("starting", "running"):
            return []
        row.error = error
        row.ended = row.state == "starting"
        self.busy -= 1
        self._move(row, "failed")
        return self._after(Failed(number, error, world=not row.ended))

    def held(self, number: int) -> list[Order]:
        """A strategy waits for an effect that happens when its branch commits."""
        row = self.rows[number]
        if row.state != "running":
            return []
        self.busy -= 1
        self._move(row, "held")
        return self._after(Finished(number, held=True))

    def answered(self, key: int, value: Any) -> list[Order]:
        """A question was answered."""
        question = self._open.pop(key, None)
        if question is None:
            return self._after()
        if not question.score:
            return self._after(Answered(question.attempts, value))
        try:
            score = float(value)
        except (TypeError, ValueError) as error:
            return self._unscored(question, error)
        if score != score:  # NaN compares with nothing
            return self._unscored(question, ValueError("the score is not a number"))
        row = self._scored_row(question)
        row.score = score
        self.changes.append(Change("scored", row.number))
        return self._after(Scored(row.number, score))

    def unanswered(self, key: int, error: BaseException) -> list[Order]:
        """A question raised."""
        question = self._open.pop(key, None)
        if question is None:
            return self._after()
        if question.score:
            return self._unscored(question, error)
        return self._after(Answered(question.attempts, error=error))

    def running_out(self, resource: str) -> None:
        """Notes that `spent` is about to be called: where what happens first is the end, it is that which ended it."""
        self._running_out = resource

    def spent(self, resource: str) -> list[Order]:
        """Seconds, tokens or money are used up: everything stops, and the policy may name a winner."""
        if self.outcome is not None or self._spent:
            return []
        self._spent = resource
        self._waiting.clear()
        self._asked.clear()
        self._open.clear()
        going = [row for row in self.rows if row.state in ("queued", "starting", "running")]
        self._end(going)
        return self._after(BudgetSpent(resource))

    def line(self, number: int | None) -> list[int]:
        """Returns an attempt and those that it was forked from, from the inside out."""
        found = []
        while number is not None:
            found.append(number)
            number = self.rows[number].fork.parent
        return found

    # What follows.

    def _after(self, *events: Event) -> list[Order]:
        self._events.extend(events)
        while self.outcome is None:
            if self._events:
                self._step(self._events.popleft())
            elif not self._employ():
                break
        if self.outcome is None and self._idle():
            self._decide(None, self._budget() or "nothing left to try")
        orders, self._orders = self._orders, []
        return orders

    def _step(self, event: Event) -> None:
        self._state, actions = self._policy.step(self._state, event)
        for action in actions:
            if self.outcome is None:
                self._take(action)

    def _take(self, action: Action) -> None:
        match action:
            case Win(number):
                self._win(number)
            case GiveUp(reason):
                self._decide(None, self._budget() or reason)
            case Stop(number):
                self._end(self._below(self._row(number)))
            case _ if self._spent:
                pass  # nothing can be begun any more
            case Fork():
                self._fork(action)
            case Score(number, by):
                self._ask((self._usable(number).number,), by, score=True)
            case Ask(numbers, by):
                for one in numbers:
                    if one is not None:
                        self._usable(one)
                self._ask(numbers, by, score=False)
            case _:
                raise InvalidInput(
                    f"the policy returned {action!r}, which is no action",
                    hint="A policy's step() returns a list of Fork, Stop, Win, Ask or GiveUp.",
                )

    def _fork(self, fork: Fork) -> None:
        if len(self.rows) >= MAX_ATTEMPTS:
            self._decide(None, f"more than {MAX_ATTEMPTS} attempts")
            return
        depth = 1
        if fork.parent is not None:
            parent = self._usable(fork.parent)
            parent.children.append(len(self.rows))
            depth = parent.depth + 1
        row = Row(len(self.rows), fork, depth)
        self.rows.append(row)
        self._waiting.append(row.number)
        self.changes.append(Change("queued", row.number))

    def _ask(self, attempts: tuple[int | None, ...], by: Callable[..., Any], *, score: bool) -> None:
        self._asked.append(Question(self._keys, attempts, by, score))
        self._keys += 1

    def _unscored(self, question: Question, error: BaseException) -> list[Order]:
        row = self._scored_row(question)
        row.error = error
        self._move(row, "failed")
        return self._after(Failed(row.number, error))

    def _win(self, number: int) -> None:
        row = self._usable(number)
        if row.state not in ("finished", "held"):
            raise InvalidInput(
                f"the policy lets attempt {number} win, which is {row.state}",
                hint="Wait for its Finished: an attempt that runs or failed cannot win.",
            )
        self._decide(number, f"budget: {self._spent}" if self._spent else "won")
        self.changes.append(Change("won", number))

    def _decide(self, winner: int | None, reason: str) -> None:
        self.outcome = Outcome(winner, reason)
        self._waiting.clear()
        self._asked.clear()
        self._open.clear()
        self._events.clear()
        kept = set(self.line(winner))
        self._end([row for row in self.rows if row.number not in kept])

    def _end(self, rows: Iterable[Row]) -> None:
        """Aborts the worlds of these, what runs first, and forgets what was asked of them."""
        ending = sorted(rows, key=lambda row: row.state not in ("running", "held", "starting"))
        gone = {row.number for row in ending}
        if not gone:
            return
        if any(row.state == "queued" for row in ending):
            self._waiting = deque(number for number in self._waiting if number not in gone)
        for row in ending:
            if row.state in ("running", "starting"):
                self.busy -= 1
            if row.state in ("queued", "starting", "running", "held"):
                row.ended = row.ended or row.state == "queued"
                self._move(row, "stopped")
        worlds = tuple(row.number for row in ending if not row.ended)
        for row in ending:
            row.ended = True
        self._asked = deque(one for one in self._asked if gone.isdisjoint(one.attempts))
        self._open = {key: one for key, one in self._open.items() if gone.isdisjoint(one.attempts)}
        self._events = deque(one for one in self._events if getattr(one, "attempt", None) not in gone)
        if worlds:
            self._orders.append(Abort(worlds))

    def _below(self, row: Row) -> list[Row]:
        found = [row]
        for one in found:
            found.extend(self.rows[child] for child in one.children)
        return found

    def _employ(self) -> bool:
        """Gives work to the workers that are free. Returns whether the policy is to be told something first."""
        while self._asked and self._free():
            question = self._asked.popleft()
            self._open[question.key] = question
            self._orders.append(question)
        while self._waiting and self._free():
            parent = self.rows[self._waiting[0]].fork.parent
            batch: list[Row] = []
            # Forks of one world that can start now are made together: at one point in time, and cheaper.
            while self._waiting and self._free() and self.rows[self._waiting[0]].fork.parent == parent:
                row = self.rows[self._waiting[0]]
                if not self._grant(1):
                    self._launch(parent, batch)
                    self._refuse(row)
                    return True
                self._waiting.popleft()
                self.busy += 1
                self._move(row, "starting")
                batch.append(row)
            self._launch(parent, batch)
        return False

    def _launch(self, parent: int | None, batch: list[Row]) -> None:
        if batch:
            self._orders.append(Launch(parent, tuple(row.number for row in batch)))

    def _refuse(self, row: Row) -> None:
        """No branch is left: the fork comes back as failed, and what runs goes on."""
        self._waiting.popleft()
        row.error = errors.BudgetSpent(
            "the budget of branches is used up",
            hint="Give a larger budget, or fewer strategies.",
            details={"resource": "branches"},
        )
        row.ended = True
        self._move(row, "failed")
        if not self._refused:
            self._refused = True
            self._events.append(BudgetSpent("branches"))
        self._events.append(Failed(row.number, row.error, world=False))

    def _free(self) -> bool:
        return self.busy + len(self._open) < self._workers

    def _idle(self) -> bool:
        return not (self.busy or self._open or self._waiting or self._asked)

    def _budget(self) -> str:
        """Says which budget kept it from going on, if one did."""
        resource = self._spent or self._running_out or ("branches" if self._refused else "")
        return f"budget: {resource}" if resource else ""

    def _row(self, number: int) -> Row:
        if not 0 <= number < len(self.rows):
            raise InvalidInput(
                f"the policy names attempt {number}, and there are {len(self.rows)}",
                hint="Attempts are numbered from 0, in the order of their forks.",
            )
        return self.rows[number]

    def _usable(self, number: int) -> Row:
        row = self._row(number)
        if row.ended or row.state not in ("finished", "failed", "held"):
            raise InvalidInput(
                f"the policy uses attempt {number}, whose world is {'gone' if row.ended else 'still running'}",
                hint="Wait for its Finished or Failed, and stop it only when it is not needed any more.",
            )
        return row

    def _scored_row(self, question: Question) -> Row:
        (number,) = question.attempts
        assert number is not None
        return self.rows[number]

    def _move(self, row: Row, state: AttemptState) -> None:
        row.state = state
        kinds = {"running": "started", "starting": ""}
        if kind := kinds.get(state, state):
            self.changes.append(Change(kind, row.number))
