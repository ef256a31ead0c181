"""What is next for a run that has failed: its policy, read from left to right. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, NamedTuple

from kibo.model.errors import Retry as Again
from kibo.model.limits import MAX_RUN_ERROR
from kibo.schedule.lifecycle import Event
from kibo.schedule.policy import Abandon, AskPerson, Chain, Compensate, Fork, Policy, Retry, Step


class Failure(NamedTuple):
    """Why a run, or an attempt of it, did not succeed.

    Attributes:
        code: As of a `KiboError`.
        message: In a sentence.
        retry: Whether the same may be tried again; see `kibo.model.errors`.
        final: Whether no other attempt is allowed, whatever the policy says: there is no time, or no budget.
        lost: Whether its node was lost, rather than that it went wrong.
    """

    code: str
    message: str
    retry: Again = "unknown"
    final: bool = False
    lost: bool = False

    def bounded(self) -> Failure:
        """Returns it as it is kept: a message of any length has come from a box."""
        return self._replace(code=self.code[:200], message=self.message[:MAX_RUN_ERROR])


class Progress(NamedTuple):
    """How far a run is in its policy.

    Attributes:
        step: Which step is next, or under way.
        tries: How often that one has been taken.
        losses: How often the run's node was lost.
    """

    step: int = 0
    tries: int = 0
    losses: int = 0


@dataclass(frozen=True)
class Next:
    """What is to be done.

    Attributes:
        event: What happens to the run.
        progress: How far it is then.
        pause_s: Before it is tried again; while a person is asked, how long that is waited for.
        forks: How many runs it goes on as.
        vary: What each of those is told.
        question: What a person is asked.
        passed: Steps that were passed over, each with the reason.
    """

    event: Event
    progress: Progress
    pause_s: float = 0.0
    forks: int = 0
    vary: tuple[str, ...] = ()
    question: str = ""
    passed: tuple[str, ...] = ()


#: What is left where even a cancelled or overdue run may still do something.
_CLEARING: Final = (Compensate, Abandon)


def next_step(
    policy: Policy,
    progress: Progress,
    failure: Failure,
    *,
    attempted: bool = True,
    branches: int | None = None,
    chance: float = 0.0,
) -> Next:
    """Decides what is next for a run that has failed.

    Args:
        policy: Its.
        progress: How far it is.
        failure: What has happened.
        attempted: Whether an attempt of it was ever made: there is nothing to undo or to fork from otherwise.
        branches: How many forks its budget and its depth still allow; None for any number.
        chance: From 0 to 1, for the jitter of pauses; see `chance_of`.
    """
    if failure.lost and not failure.final and progress.losses < policy.losses:
        return Next("requeue", progress._replace(losses=progress.losses + 1))
    passed: list[str] = []
    for number, step in enumerate(policy.steps[progress.step :], progress.step):
        tries = progress.tries if number == progress.step else 0
        why = _unfit(step, tries, failure, attempted, branches)
        if why:
            passed.append(f"{type(step).__name__}: {why}")
            continue
        here = Progress(number, tries + 1, progress.losses)
        found = _taken(step, here, branches, chance)
        return replace(found, passed=tuple(passed))
    return Next("fail", progress._replace(step=len(policy.steps), tries=0), passed=tuple(passed))


def _unfit(step: Step, tries: int, failure: Failure, attempted: bool, branches: int | None) -> str:
    """Says why a step is not for this failure; empty where it is."""
    if failure.final and not isinstance(step, _CLEARING):
        return "no other attempt is allowed"
    if isinstance(step, Retry):
        if tries >= step.n:
            return f"tried {tries} times"
        return "it would fail the same way" if failure.retry == "never" else ""
    if isinstance(step, Fork):
        if tries:
            return "none of its forks succeeded"
        if not attempted:
            return "there is nothing to fork from"
        return (
            "its budget, or its depth, allows no branch more" if branches is not None and branches < 1 else ""
        )
    if isinstance(step, Compensate):
        if tries:
            return "what could be undone was"
        return "" if attempted else "there is nothing to undo"
    if isinstance(step, AskPerson) and tries:
        return "nobody has said to go on"
    return ""


def _taken(step: Step, here: Progress, branches: int | None, chance: float) -> Next:
    if isinstance(step, Retry):
        return Next("retry", here, pause_s=step.pause_s(here.tries - 1, chance))
    if isinstance(step, Fork):
        count = step.n if branches is None else min(step.n, branches)
        return Next("fork", here, forks=count, vary=step.vary[:count])
    if isinstance(step, Compensate):
        return Next("compensate", here)
    if isinstance(step, AskPerson):
        return Next("ask", here, pause_s=step.within_s, question=step.question)
    return Next("abandon", here)


def again(progress: Progress) -> Progress:
    """Returns how far a run is whose person has said to try again: should it fail, the person is asked again."""
    return progress._replace(tries=0)


def policy_of_fork(policy: Policy, step: int) -> Policy:
    """Returns the policy of the runs that a fork makes: they try as often, fork less deep, and then give up.

    Args:
        policy: That of the run which is forked.
        step: Which of its steps the fork is.
    """
    fork = policy.steps[step]
    kept: list[Step] = [each for each in policy.steps[:step] if isinstance(each, Retry)]
    if isinstance(fork, Fork) and fork.depth != 1:
        kept.append(replace(fork, depth=None if fork.depth is None else fork.depth - 1))
    kept += [Compensate()] if any(isinstance(each, Compensate) for each in policy.steps) else []
    return replace(policy, retry=None, on_failure=Chain((*kept, Abandon())), total_timeout_s=None)


def chance_of(run: str, epoch: int) -> float:
    """Returns a number from 0 to 1 that is the same in every process, and another for each attempt."""
    digest = blake2b(f"{run} {epoch}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / float(1 << 48)
