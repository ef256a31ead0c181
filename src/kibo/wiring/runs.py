"""Runs, for plain programs: submitted, found and listed; loaded by the first that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kibo.box.actions import ActionSpec
from kibo.box.define import Box
from kibo.box.plan import action_of, plan
from kibo.branch.explore.budget import Budget
from kibo.model.errors import RunInvalid
from kibo.model.ids import RunId
from kibo.model.limits import MAX_RUN_BYTES
from kibo.runtime.waiting import Blocking
from kibo.schedule.handle import Run, RunFace
from kibo.schedule.policy import Policy
from kibo.schedule.request import Allowance, Double, Rate, Request, Resources
from kibo.schedule.work import Work, read_work
from kibo.wiring import definitions, runtime, tracing
from kibo.wiring.attempts import VARIATION, takes_variations
from kibo.wiring.scheduling import Scheduling

if TYPE_CHECKING:
    from kibo.schedule.explaining import Explanation

#: Runs that are listed where nobody says how many.
_LISTED = 100


def submit(
    box: Box,
    action: str,
    /,
    *args: Any,
    policy: Policy | None = None,
    name: str = "",
    priority: int = 0,
    tenant: str = "default",
    key: str | None = None,
    subject: str | None = None,
    double: Double = "enqueue",
    after: Sequence[Run | str] = (),
    parent: Run | str | None = None,
    budget: Budget | None = None,
    limits: Mapping[str, int] | None = None,
    rates: Mapping[str, Rate] | None = None,
    resources: Resources | None = None,
    **kwargs: Any,
) -> Run:
    """Has an action done under a policy, whatever becomes of this process. Returns once that is on the disk.

    The run has a branch of its own, and each attempt is a fork of it, which is committed once the action has returned,
    or as soon as all that it does waits for an effect that the fork holds. So what a failed attempt did is seen
    nowhere, and what a run asks the outside world for happens once, however often it is tried.

    This process carries runs out in the background, unless another one of the same state directory does already. What
    it has not ended when it ends, the next one goes on with that submits a run, waits for one, or is `kibo up`.

    Args:
        box: The definition. Another process finds it again by its module, which must be importable there.
        action: The name of an action that returns a result; no streaming one.
        args: What the action is called with. A parameter that is called like one of those below is given by position.
        policy: How long it may take, and what is done where it fails.
        name: What people call it.
        priority: From -100 to 100; each step is worth a minute of waiting, within its tenant.
        tenant: Whose it is: who shares, and how much waits, is counted by tenant.
        key: Names this one intent: submitted again with the same key, it is the same run.
        subject: What it is about: runs of one subject are one after another.
        double: What becomes of it where its subject has a run: ``"enqueue"`` has it wait, ``"reject"`` refuses it,
            ``"interrupt"`` cancels the other, ``"rollback"`` cancels it and undoes what it did.
        after: Runs that must have succeeded before it.
        parent: The run that it is part of: cancelled with that, and of the same budget.
        budget: What it may use with all that are part of it: seconds, branches. A copy: it is no meter of this one.
        limits: By key, how many runs with that key may be at work at once.
        rates: By key, how often runs with that key may be started.
        resources: What it takes of its node: one box by default.
        kwargs: What the action is called with by name.

    Returns:
        The run.

    Raises:
        UnknownAction, InvalidArguments: The box has no such action, or it does not take these arguments.
        RunInvalid: Something that was given is not well formed, or cannot be stored.
        RunUnknown, RunCycle: What it comes after, or is part of, is not there, or waits for it.
        RunRepeated: Its subject has one already, or its key names another.
        QueueFull: As many of its tenant's wait as may. Submit again later.
    """
    return submit_call(
        box, action, args, kwargs,
        policy=policy, name=name, priority=priority, tenant=tenant, key=key, subject=subject, double=double,
        after=after, parent=parent, budget=budget, limits=limits, rates=rates, resources=resources,
    )  # fmt: skip


def submit_call(
    box: Box,
    action: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    carry: bool = True,
    policy: Policy | None = None,
    after: Sequence[Run | str] = (),
    parent: Run | str | None = None,
    budget: Budget | None = None,
    limits: Mapping[str, int] | None = None,
    rates: Mapping[str, Rate] | None = None,
    resources: Resources | None = None,
    **options: Any,
) -> Run:
    """Submits as `submit`, whatever the action's parameters are called.

    Args:
        box: As there; so are those that are not named here.
        action: Its name.
        args: What it is called with by position.
        kwargs: And by name.
        carry: Whether this process carries runs out from now on.
        policy: As there.
        after: As there.
        parent: As there.
        budget: As there.
        limits: As there.
        rates: As there.
        resources: As there.
        options: As there.
    """
    spec, work = work_of(box, action, args, kwargs)
    policy = policy if policy is not None else Policy()
    request = Request(
        work,
        policy,
        limits=limits or {},
        rates=rates or {},
        resources=resources if resources is not None else Resources(),
        near=(box.digest,),
        after=tuple(id_of(each) for each in after),
        parent=None if parent is None else id_of(parent),
        budget=None if budget is None else allowance(budget),
        **options,
    )
    check_variations(spec, policy)
    scheduling = runtime().scheduling()
    with tracing.submission(box.digest, action, request.tenant) as trace:
        made = scheduling.runs.submit(replace(request, trace=trace))
    if carry:
        scheduling.carry_out()
    return _face(scheduling, made, spec.check_result)


def get_run(run: str) -> Run:
    """Finds a run that was submitted, by any process.

    Args:
        run: Its id, or the beginning of it if only one begins so.

    Raises:
        RunUnknown: There is none, or several are called so.
    """
    scheduling = runtime().scheduling()
    found = scheduling.runs.called(run).id
    return _face(scheduling, found, result_of(scheduling, found))


def runs(*, ended: bool = True, tenant: str | None = None, most: int = _LISTED) -> list[Run]:
    """Lists runs, the newest first.

    Args:
        ended: Whether those that have ended are among them.
        tenant: Whose; everybody's by default.
        most: How many at most.
    """
    scheduling = runtime().scheduling()
    found = scheduling.runs.listed(most, ended=ended, tenant=tenant)
    return [_face(scheduling, each.id, result_of(scheduling, each.id)) for each in found]


def explain(run: Run | str) -> Explanation:
    """Says why a run is where it is, or why it is not started yet, whichever process carries it out.

    It is told what the dispatcher would decide now, of the same runs and nodes, by the same code: which limit, rate,
    dependency, room, priority or share holds it back, or why it was given its node. About 0.1 ms for each run that has
    not ended.

    Args:
        run: It, its id, or the beginning of its id if only one begins so.

    Raises:
        RunUnknown: There is none, or several are called so.
        StoreDamaged: The store holds what this Kibo cannot read; a newer one may have written it.
    """
    scheduling = runtime().scheduling()
    return scheduling.explain(scheduling.runs.called(id_of(run)).id)


# -- for both faces


def work_of(
    box: Box, action: str, args: Sequence[Any], kwargs: Mapping[str, Any], later: Collection[str] = ()
) -> tuple[ActionSpec, bytes]:
    """Checks a call, and writes it down as what a run is to do; remembers the definition.

    Args:
        box: The definition.
        action: The action's name.
        args: Its arguments by position.
        kwargs: And by name.
        later: Names of parameters that are not known yet.

    Raises:
        UnknownAction, InvalidArguments, RunInvalid: See `submit`.
    """
    definitions.refuse_while_loading()
    spec = action_of(box, action)
    if spec.streaming:
        raise RunInvalid(
            f"{action}() yields items, and a run has a result alone",
            hint="Submit an action that returns, or call this one on an instance.",
        )
    positional, named = spec.check_arguments(args, kwargs, later)
    definitions.note(box)
    parts, yields = definitions.written(box)
    work = Work(box.digest, parts, yields, action, positional, named).packed()
    if len(work) > MAX_RUN_BYTES:
        raise RunInvalid(
            f"the arguments and parameters have {len(work):,} bytes, and may have {MAX_RUN_BYTES:,}",
            hint="Put what is large into a file of the box, or of its workspace.",
        )
    return spec, work


def check_variations(spec: ActionSpec, policy: Policy) -> None:
    """Refuses what forks of a run would be told and its action could not hear.

    Raises:
        RunInvalid: The action has no parameter for it.
    """
    if not takes_variations(spec, policy.steps):
        raise RunInvalid(
            f"Fork(vary=...) has something to tell {spec.name}(), which has no parameter {VARIATION!r}",
            hint=f"Add {VARIATION}: str = '' to it, which each fork is called with, or leave vary= out.",
        )


def allowance(budget: Budget) -> Allowance:
    """Returns what a budget lets be used, as runs have it.

    Raises:
        RunInvalid: It bounds what runs do not report.
    """
    limits = budget.limits
    if limits["tokens"] is not None or limits["money"] is not None:
        raise RunInvalid(
            "a run's budget bounds seconds and branches", hint="Leave tokens= and money= out of it."
        )
    branches = limits["branches"]
    return Allowance(seconds=limits["seconds"], branches=None if branches is None else int(branches))


def id_of(run: RunFace | str) -> str:
    """Returns the id of a run, or what is given as one."""
    return str(run.id) if isinstance(run, RunFace) else run


def result_of(scheduling: Scheduling, run: RunId) -> Callable[[Any], Any]:
    """Returns what makes of builtins what a run's action returns, where this process has its definition."""

    def check(value: Any) -> Any:
        work = read_work(run, scheduling.work(run))
        box = definitions.known(work.box)
        return value if box is None else plan(box).actions[work.action].check_result(value)

    return check


def _face(scheduling: Scheduling, run: RunId, checked: Callable[[Any], Any]) -> Run:
    return Run(
        run, scheduling.runs, scheduling.bell, Blocking(), checked, scheduling.carry_out,
        lambda: scheduling.explain(run),
    )  # fmt: skip
