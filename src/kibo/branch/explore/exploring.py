"""`explore`, for plain programs and for coroutines."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import Any

from kibo.branch.explore.budget import Budget
from kibo.branch.explore.conduct import Conductor, Plan
from kibo.branch.explore.crew import Threads
from kibo.branch.explore.decisions import Policy, Task
from kibo.branch.explore.exploration import Exploration, Progress
from kibo.branch.explore.policies.first_success import FirstSuccess
from kibo.branch.explore.port import World, is_async, world_of
from kibo.branch.explore.search import Search
from kibo.branch.explore.strategy import Strategy, strategies_of
from kibo.model.errors import InvalidInput
from kibo.model.limits import STOPPED_STRATEGY_S
from kibo.runtime.waiting import run


def explore(
    subject: Any,
    strategies: Iterable[Any],
    *,
    policy: Policy[Any] | None = None,
    budget: Budget | None = None,
    commit: bool = True,
    require: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
    grace_s: float = STOPPED_STRATEGY_S,
) -> Exploration:
    """Tries strategies in parallel, each in a fork of a branch, and commits the best.

    The losers are stopped as soon as the outcome is decided: calls that run in their branches raise. However it ends,
    with Ctrl-C or an error too, no fork is left open and no thread runs but those that linger, see `grace_s`.

    Args:
        subject: An instance: strategies are called with the same instance in their own branch. Or a branch:
            strategies are called with their own branch.
        strategies: Callables, pairs of a name and a callable, or `Strategy`. What one returns is its value; one that
            raises is a failed attempt, whose error is kept.
        policy: What to try, in which order, and what wins; `FirstSuccess()` where none is given.
        budget: What all of it may use. Inside a strategy of another exploration, that one's budget counts too.
        commit: Commit the winner, and what it was forked from, into the subject's branch. Otherwise it stays open, as
            ``winner.branch``; and with it those that it was forked from.
        require: Raise where there is no winner.
        progress: Told of everything, on the calling thread, as an `ExploreEvent`; see `kibo.cli.tree_view`.
        workers: Strategies that run at once; twice the processors where none is given.
        grace_s: Seconds to wait for strategies that were stopped while they did something else than calls into
            their branch. One that is not back by then has ``lingering`` set; it can change no branch any more.

    Returns:
        The attempts and the winner, if there is one. True where there is.

    Raises:
        ExplorationFailed: `require` is set, and there is no winner. It lists each attempt's error.
        Conflict: The subject's branch has moved meanwhile. The winner's branch is kept open, and named in a note.
        BranchClosed: The subject's branch is not open; or the exploration is part of an attempt that was stopped.
        InvalidInput: The subject is neither an instance nor a branch, or something is no strategy.
    """
    read = strategies_of(strategies)
    for strategy in read:
        if inspect.iscoroutinefunction(strategy.fn):
            raise InvalidInput(
                f"the strategy {strategy.name} is a coroutine function",
                hint="Use kibo.aio.explore for those.",
            )
    world, instance = _subject(subject)
    if is_async(world):
        raise InvalidInput(f"{subject!r} is one for coroutines", hint="Use kibo.aio.explore for it.")
    meter = Budget.meter(budget, Budget.current.get())
    plan = Plan(world, instance, meter, commit, progress, grace_s, lambda same: same)
    conductor = Conductor(plan, _search(plan, read, policy, workers), Threads())
    exploration = run(conductor.conduct())
    if require:
        exploration.required()
    return exploration


async def explore_async(
    subject: Any,
    strategies: Iterable[Any],
    *,
    policy: Policy[Any] | None = None,
    budget: Budget | None = None,
    commit: bool = True,
    require: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Exploration:
    """Tries strategies in parallel, each in a fork of a branch, and commits the best; see `kibo.explore`.

    The branch, or the instance, is one of `kibo.aio.branch`, whose calls strategies await; or one of `kibo.branch`.
    Strategies, and what a policy asks, may be coroutine functions. They run on the event loop: one that is no
    coroutine function blocks it. A stopped strategy is cancelled. Cancelled, it leaves no fork open and no task.
    """
    import anyio
    from anyio.from_thread import BlockingPortal

    from kibo.branch.explore.on_loop import OnLoop, face_of
    from kibo.branch.explore.tasks import Tasks

    world, instance = _subject(subject)
    meter = Budget.meter(budget, Budget.current.get())
    plan = Plan(OnLoop(world) if is_async(world) else world, instance, meter, commit, progress, 0.0, face_of)
    search = _search(plan, strategies_of(strategies), policy, workers)
    exploration: Exploration | None = None
    failure: Exception | None = None
    async with BlockingPortal() as portal, anyio.create_task_group() as group:
        try:
            exploration = await Conductor(plan, search, Tasks(group, portal)).conduct()
        except Exception as error:  # noqa: BLE001 - raised below: the group would wrap it
            failure = error
    if failure is not None:
        raise failure
    assert exploration is not None
    if require:
        exploration.required()
    return exploration


def _subject(subject: Any) -> tuple[World, Any]:
    world, is_instance = world_of(subject)
    return world, subject if is_instance else None


def _search(
    plan: Plan, strategies: tuple[Strategy, ...], policy: Policy[Any] | None, workers: int | None
) -> Search:
    if workers is None:
        workers = 2 * (os.cpu_count() or 1)
    return Search(policy or FirstSuccess(), Task(strategies), workers, plan.meter.take_branches)
