"""Budgets: seconds, branches, tokens and money that a whole tree of explorations shares."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar

from kibo.model.errors import BudgetSpent, InvalidInput

RESOURCES = ("seconds", "branches", "tokens", "money")

#: Every budget's numbers are changed under this one lock, because one charge goes to a whole chain of them.
_guard = threading.Lock()


@dataclass(frozen=True)
class Spent:
    """What was used.

    Attributes:
        seconds: Of wall time since the first exploration began.
        branches: Forks that were made.
        tokens: As strategies said.
        money: As strategies said, in their unit.
    """

    seconds: float = 0.0
    branches: int = 0
    tokens: int = 0
    money: float = 0.0


class Budget:
    """What an exploration may use, with everything that is explored inside it. None is no limit.

    A budget is also its meter: used for two explorations, it bounds the two together, and its clock runs from the
    beginning of the first. An exploration inside a strategy uses the budget of the one around it, besides its own.

    Args:
        seconds: Of wall time.
        branches: Forks; never exceeded, not by one.
        tokens: As strategies report with `spend`.
        money: The same, in any unit.

    Raises:
        InvalidInput: One of them is negative.
    """

    #: The meter of the attempt that this code runs in.
    current: ClassVar[ContextVar[Budget | None]] = ContextVar("kibo_budget", default=None)

    def __init__(
        self,
        seconds: float | None = None,
        branches: int | None = None,
        tokens: int | None = None,
        money: float | None = None,
    ) -> None:
        self._limits = {"seconds": seconds, "branches": branches, "tokens": tokens, "money": money}
        for resource, limit in self._limits.items():
            if limit is not None and not limit >= 0:
                raise InvalidInput(
                    f"a budget of {limit!r} {resource}", hint="Give a number from 0 up, or None."
                )
        self._branches = 0
        self._tokens = 0
        self._money = 0.0
        self._began: float | None = None
        self._outer: tuple[Budget, ...] = ()
        self._told: list[Callable[[str], None]] = []

    def __repr__(self) -> str:
        limits = ", ".join(f"{name}={limit!r}" for name, limit in self._limits.items() if limit is not None)
        return f"Budget({limits})"

    @property
    def limits(self) -> Mapping[str, float | None]:
        """What may be used, by resource; None where there is no limit."""
        return dict(self._limits)

    @property
    def spent(self) -> Spent:
        """What was used so far."""
        with _guard:
            seconds = 0.0 if self._began is None else time.monotonic() - self._began
            return Spent(seconds, self._branches, self._tokens, self._money)

    def spend(self, *, tokens: int = 0, money: float = 0.0) -> None:
        """Reports what was used, from a strategy or anything else that the budget is for. Thread-safe.

        Args:
            tokens: How many more.
            money: How much more, in the budget's unit.

        Raises:
            BudgetSpent: That, or what was used before it, is more than the budget or one around it. It counts all
                the same; whatever runs under the budget is stopped.
            InvalidInput: A negative number.
        """
        if tokens < 0 or money < 0:
            raise InvalidInput("what was spent cannot be given back", hint="Give numbers from 0 up.")
        mine = Budget.current.get()
        # From inside of an attempt of this budget, so that the attempt and the explorations between are charged too.
        first = mine if mine is not None and self in mine.chain() else self
        with _guard:
            for budget in first.chain():
                budget._tokens += tokens
                budget._money += money
            over = next(((b, r) for b in first.chain() if (r := b._exceeded())), None)
            told = list(over[0]._told) if over else []
        if over:
            for tell in told:
                tell(over[1])
            raise over[0]._error(over[1])

    # What follows is for the explorations that the budget is given to.

    def begin(self) -> None:
        """Starts its clock and those around it, unless they run."""
        with _guard:
            for budget in self.chain():
                if budget._began is None:
                    budget._began = time.monotonic()

    @classmethod
    def meter(cls, *outer: Budget | None) -> Budget:
        """Makes a budget without limits of its own: what is charged to it is charged to all of `outer` too."""
        made = cls()
        made._outer = tuple(budget for budget in outer if budget is not None)
        return made

    def chain(self) -> tuple[Budget, ...]:
        """Returns the budget and all around it, each once, from the inside out."""
        found = [self]
        for budget in found:
            found.extend(one for one in budget._outer if one not in found)
        return tuple(found)

    def take_branches(self, wanted: int) -> int:
        """Takes as many branches as are left, at most `wanted`, from it and from those around it."""
        with _guard:
            for budget in self.chain():
                limit = budget._limits["branches"]
                if limit is not None:
                    wanted = min(wanted, max(0, int(limit) - budget._branches))
            for budget in self.chain():
                budget._branches += wanted
            return wanted

    def return_branches(self, count: int) -> None:
        """Gives back ``count`` branches that were taken and could not be made."""
        with _guard:
            for budget in self.chain():
                budget._branches -= count

    def seconds_left(self) -> float | None:
        """Returns the seconds until the first limit of it and of those around it; None where there is none."""
        now = time.monotonic()
        left = [
            began + limit - now
            for budget in self.chain()
            if (began := budget._began) is not None and (limit := budget._limits["seconds"]) is not None
        ]
        return min(left) if left else None

    def used_up(self) -> str:
        """Returns which resource, other than branches, is used up already; empty where none is."""
        left = self.seconds_left()
        if left is not None and left <= 0:
            return "seconds"
        with _guard:
            return next((resource for budget in self.chain() if (resource := budget._exceeded())), "")

    def listen(self, tell: Callable[[str], None]) -> None:
        """Has `tell` called, on any thread, with the resource of it or of one around it that is used up."""
        with _guard:
            for budget in self.chain():
                budget._told.append(tell)

    def unlisten(self, tell: Callable[[str], None]) -> None:
        """Ends what `listen` began with the same ``tell``."""
        with _guard:
            for budget in self.chain():
                budget._told.remove(tell)

    def _exceeded(self) -> str:
        tokens, money = self._limits["tokens"], self._limits["money"]
        if tokens is not None and self._tokens > tokens:
            return "tokens"
        if money is not None and self._money > money:
            return "money"
        return ""

    def _error(self, resource: str) -> BudgetSpent:
        used = {"tokens": self._tokens, "money": self._money}.get(resource)
        return BudgetSpent(
            f"the budget of {self._limits[resource]} {resource} is used up",
            hint="Give a larger budget, or fewer strategies.",
            details={"resource": resource, "limit": self._limits[resource], "used": used},
        )
