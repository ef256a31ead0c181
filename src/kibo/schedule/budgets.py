"""What a tree of runs may use together. A step is let in before it is paid for, so that one step at most is too much.

An attempt reserves the most that its next step can use, and settles what it has used. What does not fit beside what
others have used and reserved is let in only where nobody has reserved anything. What a dead attempt had reserved counts
as used: nobody knows that it was not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select, update

from kibo.model.clock import Moment
from kibo.model.errors import BudgetSpent, RunTaken
from kibo.model.ids import BudgetId
from kibo.schedule.lifecycle import STARTED, WRITING, State
from kibo.schedule.policy import whole
from kibo.schedule.request import Allowance
from kibo.schedule.rows import find, ring
from kibo.store import crash
from kibo.store.checking import damaged
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared, Row, insertion
from kibo.store.schema import budgets, runs

#: What one step may say that it uses: sums of these are still numbers of every database.
_MOST: Final = 1 << 50


class BudgetRow(NamedTuple):
    """One row of `budgets`, column by column; see the table."""

    id: str
    seconds: float | None
    branches: int | None
    tokens: int | None
    money: int | None
    used_branches: int
    used_tokens: int
    used_money: int
    reserved_tokens: int
    reserved_money: int
    began: float | None
    began_up: float | None
    began_boot: str | None

    @property
    def branches_left(self) -> int | None:
        """How many forks it still has; None for any number."""
        return None if self.branches is None else max(0, self.branches - self.used_branches)

    def seconds_left(self, now: Moment) -> float | None:
        """Returns the seconds that it still has; None where it has no limit, or has not begun."""
        if self.seconds is None or self.began is None or self.began_up is None or self.began_boot is None:
            return None
        began = Moment(self.began, self.began_up, self.began_boot)
        return began.after(self.seconds).left_s(self.seconds, now)

    def spent(self, now: Moment | None = None) -> str:
        """Says what is used up, so that the tree stops; empty where nothing is. Without forks it goes on."""
        for name in ("tokens", "money"):
            limit = getattr(self, name)
            if limit is not None and getattr(self, f"used_{name}") >= limit:
                return name
        left = None if now is None else self.seconds_left(now)
        return "seconds" if left is not None and left <= 0 else ""

    def error(self, resource: str) -> BudgetSpent:
        """Makes the error for what is used up."""
        used = getattr(self, f"used_{resource}", None)
        return BudgetSpent(
            f"the budget of {getattr(self, resource)} {resource} is used up",
            hint="Give the tree a larger one, or fewer runs.",
            details={"budget": self.id, "resource": resource, "limit": getattr(self, resource), "used": used},
        )


_BUDGET: Final = select(*budgets.columns).where(budgets.c.id == bindparam("id"))
_LOOK: Final = Prepared(_BUDGET)
_HOLD: Final = Prepared(_BUDGET.with_for_update())
_NEW: Final = insertion(budgets)
_BEGIN: Final = Prepared(
    update(budgets)
    .where(budgets.c.id == bindparam("budget"), budgets.c.began.is_(None))
    .values(began=bindparam("at"), began_up=bindparam("up"), began_boot=bindparam("started"))
)
_FORK: Final = Prepared(
    update(budgets)
    .where(budgets.c.id == bindparam("budget"))
    .values(used_branches=budgets.c.used_branches + bindparam("more"))
)
_SET: Final = Prepared(
    update(budgets)
    .where(budgets.c.id == bindparam("budget"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("used_tokens", "used_money", "reserved_tokens", "reserved_money")
        }
    )
)
_RESERVED: Final = Prepared(
    select(runs.c.reserved_tokens, runs.c.reserved_money)
    .where(runs.c.id == bindparam("id"))
    .with_for_update()
)
_SET_RESERVED: Final = Prepared(
    update(runs)
    .where(runs.c.id == bindparam("run"))
    .values(reserved_tokens=bindparam("tokens"), reserved_money=bindparam("money"))
)


def look(tx: Transaction, budget: str) -> BudgetRow:
    """Reads a budget.

    Raises:
        StoreDamaged: A run names it, and it is not there.
    """
    return _made(tx.row(_LOOK, id=budget), budget)


def _hold(tx: Transaction, budget: str) -> BudgetRow:
    return _made(tx.row(_HOLD, id=budget), budget)


def _made(row: Row | None, budget: str) -> BudgetRow:
    if row is None:
        raise damaged("budgets", "id", {"id": budget}, "is missing")
    return BudgetRow._make(row)


def create(tx: Transaction, allowance: Allowance) -> BudgetId:
    """Writes a new budget, of which nothing is used."""
    made = BudgetRow(
        BudgetId.new(), allowance.seconds, allowance.branches, allowance.tokens, allowance.money,
        0, 0, 0, 0, 0, None, None, None,
    )  # fmt: skip
    tx.run(_NEW, **made._asdict())
    return BudgetId(made.id)


def begin(tx: Transaction, budget: str, now: Moment) -> None:
    """Starts its clock, unless it runs."""
    tx.run(_BEGIN, budget=budget, at=now.at_s, up=now.up_s, started=now.boot)


def take_branches(tx: Transaction, budget: str, wanted: int) -> bool:
    """Takes branches, all or none. Returns whether it had so many."""
    left = _hold(tx, budget).branches_left
    if left is not None and left < wanted:
        return False
    tx.run(_FORK, budget=budget, more=wanted)
    return True


def forfeit(tx: Transaction, budget: str, run: str) -> bool:
    """Counts what an attempt had reserved as used: it has ended without settling. Returns whether that was anything."""
    held = tx.row(_RESERVED, id=run)
    if held is None or not any(held):
        return False
    _settle(tx, budget, run, held, held)
    return True


def _settle(
    tx: Transaction, budget: str, run: str, held: tuple[int, ...], used: tuple[int, ...]
) -> BudgetRow:
    found = _hold(tx, budget)
    tx.run(_SET_RESERVED, run=run, tokens=0, money=0)
    found = found._replace(
        used_tokens=found.used_tokens + used[0],
        used_money=found.used_money + used[1],
        reserved_tokens=max(0, found.reserved_tokens - held[0]),
        reserved_money=max(0, found.reserved_money - held[1]),
    )
    _write(tx, found)
    return found


def _write(tx: Transaction, row: BudgetRow) -> None:
    tx.run(
        _SET,
        budget=row.id,
        new_used_tokens=row.used_tokens,
        new_used_money=row.used_money,
        new_reserved_tokens=row.reserved_tokens,
        new_reserved_money=row.reserved_money,
    )


class Meter:
    """What one attempt uses. Each call is one transaction, and raises `StoreUnavailable` and `HostDiskFull` as it does.

    Args:
        store: The store.
        run: The attempt's run.
        epoch: Its epoch.
    """

    def __init__(self, store: Store, run: str, epoch: int) -> None:
        self._store: Final = store
        self._run: Final = run
        self._epoch: Final = epoch

    def reserve(self, tokens: int = 0, money: int = 0) -> None:
        """Lets a step in, before it is done.

        Args:
            tokens: The most that it can use.
            money: The same, in millionths.

        Raises:
            BudgetSpent: It does not fit beside what is used and what others have reserved. Where others have reserved
                something, it may fit once they have settled (`retry` is `after`).
            RunTaken: The attempt is not its run's newest.
            RunInvalid: A number is none.
        """
        wanted = _checked(tokens, money)

        def work(tx: Transaction) -> None:
            budget, held = self._held(tx, STARTED)
            if budget is None:
                return
            found = _hold(tx, budget)
            if spent := found.spent():
                raise found.error(spent)
            alone = (found.reserved_tokens, found.reserved_money) == held
            for name, more, mine in zip(("tokens", "money"), wanted, held, strict=True):
                limit = getattr(found, name)
                sum_of = getattr(found, f"used_{name}") + getattr(found, f"reserved_{name}") - mine + more
                if limit is not None and sum_of > limit and not alone:
                    raise found.error(name)
            _write(
                tx,
                found._replace(
                    reserved_tokens=found.reserved_tokens - held[0] + wanted[0],
                    reserved_money=found.reserved_money - held[1] + wanted[1],
                ),
            )
            tx.run(_SET_RESERVED, run=self._run, tokens=wanted[0], money=wanted[1])
            crash.point("budget.before_reserve")

        self._store.write(work)
        crash.point("budget.reserved")

    def settle(self, tokens: int = 0, money: int = 0) -> None:
        """Counts what a step has used, and lets go of what was reserved for it.

        Raises:
            RunTaken: The attempt is not its run's newest: what it had reserved was counted already.
            RunInvalid: A number is none.
        """
        used = _checked(tokens, money)

        def work(tx: Transaction) -> None:
            budget, held = self._held(tx, WRITING)
            if budget is None:
                return
            if _settle(tx, budget, self._run, held, used).spent():
                ring(tx, self._run)  # the tree stops

        self._store.write(work)

    def _held(self, tx: Transaction, states: Collection[State]) -> tuple[str | None, tuple[int, int]]:
        """Locks the run, if the attempt is its newest. Returns its budget, and what it has reserved."""
        held = tx.row(_RESERVED, id=self._run)
        run = find(tx, self._run)
        if held is None or run.epoch != self._epoch or run.live is None or run.state not in states:
            raise RunTaken(
                f"attempt {self._epoch} of {self._run} is not at work any more",
                details={"run": self._run, "epoch": self._epoch, "now": run.epoch, "state": run.state},
            )
        return run.budget, (held[0], held[1])


def _checked(tokens: int, money: int) -> tuple[int, int]:
    whole("tokens", tokens, 0, _MOST)
    whole("money", money, 0, _MOST)
    return tokens, money
