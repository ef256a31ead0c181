"""One exploration, carried out: what `Search` orders, a crew does, in branches, until there is an outcome."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kibo.branch.explore.budget import Budget
from kibo.branch.explore.crew import Crew
from kibo.branch.explore.exploration import Attempt, Exploration, ExploreEvent, Progress
from kibo.branch.explore.inside import Inside, inside
from kibo.branch.explore.port import World
from kibo.branch.explore.search import Abort, Launch, Order, Question, Search
from kibo.branch.explore.strategy import called_with
from kibo.branch.explore.worlds import Worlds
from kibo.model.errors import BranchClosed, Bug, Conflict
from kibo.model.limits import BOUNDARY_POLL_S


@dataclass
class Effort:
    """What one attempt has used, and where it runs."""

    name: str
    meter: Budget
    inside: Inside
    began: float | None = None
    seconds: float = 0.0
    lingering: bool = False


@dataclass(frozen=True)
class Plan:
    """What an exploration was asked for.

    Attributes:
        world: The explored branch.
        instance: The instance in it that strategies are called with; None where they are called with the branch.
        meter: The exploration's own meter, within the budget.
        commit: Whether to commit the winner.
        progress: Told of everything.
        grace_s: See `explore`.
        face: Gives a branch as its user knows it.
    """

    world: World
    instance: Any
    meter: Budget
    commit: bool
    progress: Progress | None
    grace_s: float
    face: Callable[[World], Any]
    efforts: dict[int, Effort] = field(default_factory=dict)


class Conductor:
    """Runs one exploration. The same code for threads and for coroutines: it waits through its crew alone."""

    def __init__(self, plan: Plan, search: Search, crew: Crew) -> None:
        self._plan = plan
        self._search = search
        self._crew = crew
        self._worlds = Worlds(plan.world)
        self._efforts = plan.efforts
        self._names: Counter[str] = Counter()
        self._began = self._polled = time.monotonic()
        self._kept: set[int] = set()
        self._committed = False

    async def conduct(self) -> Exploration:
        """Explores to the end. Whatever ends it, no branch but a winner's is open then, and no job runs."""
        around = inside.get()
        meter = self._plan.meter
        meter.begin()
        meter.listen(self._budget_spent)
        try:
            if around is not None:
                around.stopping.listen(self._stop)
            try:
                await self._explore()
                await self._finish()
            except BaseException as error:
                errors = await self._close(self._kept)
                for another in errors:
                    error.add_note(f"and while ending its branches: {another!r}")
                raise
            if errors := await self._close(self._kept):
                raise errors[0]
        finally:
            meter.unlisten(self._budget_spent)
            if around is not None:
                around.stopping.unlisten(self._stop)
        exploration = self._exploration()
        self._tell(ExploreEvent("ended", None, exploration.reason, self._elapsed(), exploration))
        return exploration

    # Called on any thread.

    def _budget_spent(self, resource: str) -> None:
        self._crew.post(lambda: self._search.spent(resource))

    def _stop(self) -> None:
        self._crew.post(self._stopped)

    def _stopped(self) -> None:
        raise BranchClosed(
            "the attempt that this exploration is part of was stopped",
            hint="Its policy wanted no more of it; nothing is to be done.",
        )

    def _say(self, number: int, text: str) -> None:
        line = text.strip().rpartition("\n")[2]
        self._crew.post(lambda: self._tell_of("log", number, line))

    # The conductor's own loop.

    async def _explore(self) -> None:
        self._tell(ExploreEvent("began"))
        orders = self._search.begin(self._plan.meter.used_up())
        while True:
            await self._perform(orders)
            if self._search.outcome is not None:
                return
            orders = []
            happening = await self._crew.next(self._patience())
            left = self._plan.meter.seconds_left()
            over = left is not None and left <= 0
            if over:
                self._search.running_out("seconds")
            if happening is not None:
                orders = self._handle(happening())
            orders = [*orders, *(self._search.spent("seconds") if over else self._at_their_boundary())]

    def _handle(self, orders: object) -> list[Order]:
        return orders if isinstance(orders, list) else []

    def _patience(self) -> float | None:
        left = self._plan.meter.seconds_left()
        if self._search.busy:
            return BOUNDARY_POLL_S if left is None else min(left, BOUNDARY_POLL_S)
        return left

    def _at_their_boundary(self) -> list[Order]:
        orders: list[Order] = []
        if not self._search.busy or time.monotonic() < self._polled + BOUNDARY_POLL_S:
            return orders
        self._polled = time.monotonic()
        for row in self._search.rows:
            if row.state == "running" and self._worlds.get(row.number).waits_at_boundary():
                orders += self._search.held(row.number)
        return orders

    async def _perform(self, orders: list[Order]) -> None:
        # Aborts first: the outcome is decided, and nothing of the others is to happen after it.
        for order in sorted(orders, key=lambda one: not isinstance(one, Abort)):
            match order:
                case Abort(numbers):
                    for number in numbers:
                        if (effort := self._efforts.get(number)) is not None:
                            effort.inside.stopping.stop()
                        await self._crew.call(self._worlds.abort, number)
                        self._crew.cancel(number)
                case Launch(_, numbers):
                    for number in numbers:
                        self._efforts[number] = self._effort(number)
                    self._crew.start(-1, lambda order=order: self._launch(order))  # type: ignore[misc]
                case Question(_, numbers):
                    of = next((n for n in numbers if n is not None), -1)
                    self._crew.start(of, lambda order=order: self._question(order))  # type: ignore[misc]
        self._report()

    def _effort(self, number: int) -> Effort:
        strategy = self._search.rows[number].fork.strategy.name
        self._names[strategy] += 1
        count = self._names[strategy]
        name = strategy if count == 1 else f"{strategy}-{count}"
        return Effort(name, Budget.meter(self._plan.meter), Inside(number, self._say))

    # Jobs.

    async def _launch(self, order: Launch) -> None:
        """Forks a world for some attempts and starts their strategies."""
        crew, search, numbers = self._crew, self._search, order.attempts
        names = [self._efforts[number].name for number in numbers]
        try:
            live = await crew.call(self._fork, order, names)
        except BaseException as error:  # noqa: BLE001 - it is the attempts' error
            self._plan.meter.return_branches(len(numbers))
            for number in numbers:
                crew.post(lambda number=number, error=error: search.raised(number, error))  # type: ignore[misc]
            return
        for number in live:
            crew.start(number, lambda number=number: self._attempt(number))  # type: ignore[misc]

    def _fork(self, order: Launch, names: list[str]) -> list[int]:
        worlds = self._worlds.get(order.parent).fork(len(names), names=names)
        if len(worlds) != len(names):
            for world in worlds:
                world.abort()
            raise Bug(f"a branch was to be forked {len(names)} ways and was {len(worlds)}")
        return self._worlds.adopt(order.attempts, worlds)

    async def _attempt(self, number: int) -> None:
        """Runs one strategy in its world."""
        crew, search, effort = self._crew, self._search, self._efforts[number]
        inside.set(effort.inside)
        Budget.current.set(effort.meter)
        fork = search.rows[number].fork
        effort.began = time.monotonic()
        crew.post(lambda: search.forked(number))
        try:
            place = await crew.call(self._place, number)
            value = called_with(fork.strategy.fn, place, hint=fork.hint)
            if inspect.isawaitable(value):
                value = await value
        except BaseException as error:
            self._took(effort)
            if crew.is_cancellation(error):
                raise
            crew.post(lambda error=error: search.raised(number, error))  # type: ignore[misc]
        else:
            self._took(effort)
            crew.post(lambda: search.returned(number, value))

    async def _question(self, question: Question) -> None:
        """Calls what a policy asks with the worlds that it asks about."""
        crew, search, key = self._crew, self._search, question.key
        first = next((self._search.rows[n] for n in question.attempts if n is not None), None)
        known = {} if first is None else {"value": first.value, "error": first.error, "hint": first.fork.hint}
        if first is not None:
            # What a score or a judge spends and says belongs to what it judges.
            inside.set(self._efforts[first.number].inside)
            Budget.current.set(self._efforts[first.number].meter)
        try:
            places = [await crew.call(self._place, number) for number in question.attempts]
            value = called_with(question.by, *places, **known)
            if inspect.isawaitable(value):
                value = await value
        except BaseException as error:
            if crew.is_cancellation(error):
                raise
            crew.post(lambda error=error: search.unanswered(key, error))  # type: ignore[misc]
        else:
            crew.post(lambda: search.answered(key, value))

    def _place(self, number: int | None) -> Any:
        world = self._worlds.get(number)
        return self._plan.face(world) if self._plan.instance is None else world[self._plan.instance]

    def _took(self, effort: Effort) -> None:
        if effort.began is not None:
            effort.seconds, effort.began = time.monotonic() - effort.began, None

    # The end.

    async def _finish(self) -> None:
        outcome = self._search.outcome
        if outcome is None or outcome.winner is None:
            return
        line = self._search.line(outcome.winner)
        if not self._plan.commit:
            self._kept.update(line)
            return
        for number in line:  # from the inside out: a nested branch commits into its parent
            world = self._worlds.get(number)
            try:
                await self._crew.call(world.commit)
            except Conflict as error:
                self._kept.update(line)
                error.add_note(
                    f"the winner is kept, in branch {world.id}: commit it in another way, or abort it"
                )
                raise
            self._kept.add(number)
        self._committed = True
        # Its effect happens now, and its strategy goes on from there.
        while self._search.rows[outcome.winner].state == "held":
            left = self._plan.meter.seconds_left()
            happening = await self._crew.next(left)
            if happening is not None:
                happening()
            elif left is not None and left <= 0:
                return

    async def _close(self, kept: set[int]) -> list[BaseException]:
        with self._crew.unbroken():
            for number, effort in list(self._efforts.items()):
                if number not in kept:
                    effort.inside.stopping.stop()
            errors = await self._crew.call(self._worlds.close, frozenset(kept))
            for number in list(self._efforts):
                self._crew.cancel(number)
            for number in await self._crew.join(self._plan.grace_s):
                if number in self._efforts:
                    self._efforts[number].lingering = True
            for effort in self._efforts.values():
                self._took(effort)
            return errors

    # What others see.

    def _exploration(self) -> Exploration:
        outcome = self._search.outcome
        assert outcome is not None
        attempts = tuple(self._view(row.number) for row in self._search.rows)
        winner = None if outcome.winner is None else attempts[outcome.winner]
        return Exploration(winner, attempts, self._plan.meter.spent, outcome.reason, self._committed)

    def _view(self, number: int) -> Attempt:
        row = self._search.rows[number]
        effort = self._efforts.get(number)
        world = self._worlds.find(number)
        outcome = self._search.outcome
        running = effort is not None and effort.began is not None
        return Attempt(
            number=number,
            name=effort.name if effort else row.fork.strategy.name,
            strategy=row.fork.strategy.name,
            parent=row.fork.parent,
            depth=row.depth,
            hint=row.fork.hint,
            state="won" if outcome is not None and outcome.winner == number else row.state,
            value=row.value,
            score=row.score,
            error=row.error,
            seconds=time.monotonic() - (effort.began or 0)
            if effort and running
            else effort.seconds
            if effort
            else 0,
            cost=_cost(effort),
            branch=None if world is None else self._plan.face(world),
            branch_id=world.id if world is not None else "",
            lingering=effort.lingering if effort else False,
        )

    def _report(self) -> None:
        changes, self._search.changes = self._search.changes, []
        if self._plan.progress is not None:
            for change in changes:
                self._tell_of(change.kind, change.attempt)

    def _tell_of(self, kind: Any, number: int, text: str = "") -> None:
        if self._plan.progress is not None:
            self._tell(ExploreEvent(kind, self._view(number), text, self._elapsed()))

    def _tell(self, event: ExploreEvent) -> None:
        if self._plan.progress is not None:
            self._plan.progress(event)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def _cost(effort: Effort | None) -> Any:
    from dataclasses import replace

    from kibo.branch.explore.budget import Spent

    return Spent() if effort is None else replace(effort.meter.spent, seconds=effort.seconds)
