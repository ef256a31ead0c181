"""What becomes of a run when something happens to it. Pure: a run and what happened in, a change out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from kibo.model.clock import Moment
from kibo.model.limits import MAX_RUN_RESULT_BYTES
from kibo.schedule.failing import Failure, Progress, again, chance_of, next_step
from kibo.schedule.lifecycle import ENDED, UNDOING, Event, Note, State, after
from kibo.schedule.run import Attempt, Outcome, Run


@dataclass(frozen=True)
class Change:
    """What a run was, and is now, to be stored as one step.

    Attributes:
        before: As it was decided from: stored only where the run is still at its version.
        after: As it is then.
        event: What happened.
        told: More of it, for the timeline, as values of JSON.
        placed: The attempt that begins with it.
        begun: Whether its attempt's action has begun.
        outcome: What became of the attempt that ends with it.
        result: What the run came to.
        forks: What each run is told that it goes on as.
    """

    before: Run
    after: Run
    event: Event | Note
    told: Mapping[str, Any] = field(default_factory=dict)
    placed: Attempt | None = None
    begun: bool = False
    outcome: Outcome | None = None
    result: bytes | None = None
    forks: tuple[str, ...] = ()


class Deadline(NamedTuple):
    """When something is to happen to a run by itself.

    Attributes:
        left_s: In how many seconds.
        what: Which of its times that is.
    """

    left_s: float
    what: Literal["queue", "start", "action", "total", "pause", "person"]


def moved(run: Run, event: Event, now: Moment, **changes: Any) -> Run:
    """Returns a run after an event; with another state, it has entered that now.

    Raises:
        WrongState: That cannot happen to it.
    """
    state = after(run.state, event)
    if state != run.state or event in ("place", "fork"):
        changes = {"entered": now, "pause_s": 0.0, **changes}
    return replace(run, state=state, version=run.version + 1, **changes)


def ready(run: Run, now: Moment) -> Change:
    """What it waited for has ended."""
    return Change(run, moved(run, "ready", now), "ready")


def placed(run: Run, node: str, node_epoch: int, now: Moment, told: Mapping[str, Any]) -> Change:
    """It has a node: an attempt begins."""
    epoch = run.epoch + 1
    kind: Literal["work", "undo"] = "undo" if run.state in UNDOING else "work"
    attempt = Attempt(run.id, epoch, kind, node, node_epoch, now)
    then = moved(run, "place", now, epoch=epoch, live=attempt)
    return Change(run, then, "place", {"node": node, "epoch": epoch, "kind": kind, **told}, placed=attempt)


def begun(run: Run, now: Moment) -> Change | None:
    """The action of its attempt has begun; None where that changes nothing."""
    if run.live is None or run.live.begun is not None:
        return None
    live = replace(run.live, begun=now)
    if run.state == "starting":
        return Change(run, moved(run, "begin", now, live=live), "begin", {"epoch": run.epoch}, begun=True)
    then = replace(run, version=run.version + 1, live=live)
    return Change(run, then, "begin", {"epoch": run.epoch}, begun=True)


def noted(run: Run, note: Note) -> Change:
    """Something has happened in its attempt that its timeline tells, and that decides nothing."""
    return Change(run, replace(run, version=run.version + 1), note, {"epoch": run.epoch})


def succeeded(run: Run, now: Moment, result: bytes, snapshot: str | None) -> Change:
    """Its attempt has ended well; where it was cancelled before, that makes no difference."""
    if run.state in UNDOING:
        return undone(run, now, None)
    if run.state == "cancelling":
        return _stopped(run, now, "succeeded")
    if len(result) > MAX_RUN_RESULT_BYTES:
        told = f"its result has {len(result)} bytes, and may have {MAX_RUN_RESULT_BYTES}"
        return failed(run, now, Failure("run.result_too_large", told, "never"), snapshot=snapshot)
    then = moved(run, "succeed", now, live=None, failure=None, snapshot=snapshot or run.snapshot)
    return Change(run, then, "succeed", {"epoch": run.epoch}, outcome="succeeded", result=result)


def failed(
    run: Run,
    now: Moment,
    failure: Failure,
    *,
    snapshot: str | None = None,
    outcome: Outcome = "failed",
    branches: int | None = None,
) -> Change:
    """Its attempt has failed, was lost, or was stopped; or it has failed without one. Its policy says what is next.

    Args:
        run: It.
        now: When.
        failure: Why. What a run is being stopped for counts, rather than how it stopped.
        snapshot: The last good one, if the attempt has made any.
        outcome: What became of its attempt, if it has one.
        branches: How many forks its budget still has; None for any number.
    """
    if run.state == "cancelling":
        return _stopped(run, now, outcome)
    if run.state in UNDOING:
        return _not_undone(run, now, failure, outcome)
    if run.state == "stopping" and run.failure is not None:
        failure = run.failure
    failure = failure.bounded()
    return _next(run, now, failure, snapshot or run.snapshot, outcome, branches)


def _next(
    run: Run, now: Moment, failure: Failure, snapshot: str | None, outcome: Outcome, branches: int | None
) -> Change:
    found = next_step(
        run.request.policy,
        run.progress,
        failure,
        attempted=run.epoch > 0,
        branches=branches,
        chance=chance_of(run.id, run.epoch),
    )
    forks = tuple((*found.vary, *[""] * found.forks)[: found.forks])
    then = moved(
        run, found.event, now,
        progress=found.progress, failure=failure, snapshot=snapshot, pause_s=found.pause_s, live=None,
    )  # fmt: skip
    told: dict[str, Any] = {"failure": failure._asdict(), "epoch": run.epoch}
    told |= {"passed": list(found.passed)} if found.passed else {}
    told |= {"pause_s": found.pause_s} if found.pause_s else {}
    told |= {"forks": found.forks} if found.forks else {}
    told |= {"question": found.question} if found.question else {}
    return Change(run, then, found.event, told, outcome=None if run.live is None else outcome, forks=forks)


def stopping(run: Run, now: Moment, failure: Failure) -> Change:
    """Its attempt is to be stopped, and why."""
    then = moved(run, "stop", now, failure=failure.bounded())
    return Change(run, then, "stop", {"failure": failure._asdict(), "epoch": run.epoch})


def undone(run: Run, now: Moment, failure: Failure | None) -> Change:
    """What it has done outside is undone, as far as it could be; the policy goes on, or the cancellation ends."""
    if run.state == "rolling_back":
        told = {"epoch": run.epoch} | ({} if failure is None else {"failure": failure._asdict()})
        outcome: Outcome = "succeeded" if failure is None else "failed"
        return Change(run, moved(run, "stopped", now, live=None), "stopped", told, outcome=outcome)
    before = run.failure or Failure("run.undone", "it was undone")
    # The policy goes on from the failure that began it: to undo is no attempt of its own.
    change = _next(run, now, before, run.snapshot, "succeeded" if failure is None else "failed", None)
    told = {} if failure is None else {"not_undone": failure._asdict()}
    return replace(change, told={**change.told, **told})


def _not_undone(run: Run, now: Moment, failure: Failure, outcome: Outcome) -> Change:
    """An undoing is placed again where its node was lost, as often as its policy says; then it is told and left."""
    losses = run.progress.losses
    if failure.lost and losses < run.request.policy.losses:
        then = replace(
            run, version=run.version + 1, live=None, progress=run.progress._replace(losses=losses + 1)
        )
        return Change(run, then, "requeue", {"epoch": run.epoch}, outcome="lost")
    return replace(undone(run, now, failure), outcome=outcome)


def requeued(run: Run, now: Moment) -> Change:
    """Its pause is over."""
    return Change(run, moved(run, "requeue", now), "requeue")


def answered(run: Run, now: Moment, verdict: Literal["retry", "abandon"], person: str) -> Change:
    """A person has said what is next.

    Raises:
        WrongState: Nobody was asked, or not any more.
    """
    progress: Progress = again(run.progress) if verdict == "retry" else run.progress
    return Change(run, moved(run, verdict, now, progress=progress), verdict, {"by": person})


def cancelled(run: Run, now: Moment, *, rollback: bool, why: str) -> Change | None:
    """It is cancelled; None where it was before, or has ended."""
    if run.ended or run.cancelled:
        return None
    rollback = rollback and run.epoch > 0
    event: Event = "roll_back" if rollback and run.live is None and run.state != "compensating" else "cancel"
    return Change(run, moved(run, event, now, rollback=rollback), event, {"why": why})


def _stopped(run: Run, now: Moment, outcome: Outcome) -> Change:
    event: Event = "roll_back" if run.rollback else "stopped"
    return Change(run, moved(run, event, now, live=None), event, {"epoch": run.epoch}, outcome=outcome)


def joined(
    run: Run, now: Moment, forks: Collection[State], winner: str, branches: int | None = None
) -> Change | None:
    """Some of the runs that it goes on as have ended; None where that decides nothing yet.

    Args:
        run: It, forked.
        now: When.
        forks: How each of them stands.
        winner: The one that succeeded; empty where none has.
        branches: See `failed`.
    """
    if run.state != "forked":
        return None
    if winner:
        return Change(run, moved(run, "succeed", now, failure=None), "succeed", {"fork": winner})
    if all(state in ENDED for state in forks):
        failure = run.failure or Failure("run.forks_failed", "none of its forks succeeded")
        return failed(run, now, failure, branches=branches)
    return None


def deadline(run: Run, now: Moment) -> Deadline | None:
    """Returns what happens to a run next by itself; None where that is nothing."""
    policy = run.request.policy
    found: list[Deadline] = []

    def add(since: Moment, within_s: float | None, what: Any) -> None:
        if within_s is not None:
            found.append(Deadline(since.after(within_s).left_s(within_s, now), what))

    live = run.live
    if run.state == "queued":
        add(run.entered, policy.queue_timeout_s, "queue")
    elif run.state == "backing_off":
        add(run.entered, run.pause_s, "pause")
    elif run.state == "asking":
        add(run.entered, run.pause_s, "person")
    elif live is not None and run.state in ("starting", "running", *UNDOING):
        if live.begun is None:
            add(live.placed, policy.start_timeout_s, "start")
        else:
            add(live.begun, policy.timeout_s, "action")
    if run.state in ("waiting", "queued", "starting", "running", "backing_off", "forked", "asking"):
        add(run.created, policy.total_timeout_s, "total")
    return min(found, default=None)
