"""What is done about a run that fails, as data: `Policy`, and steps that compose with a bar.

``Retry(3) | Fork(n=3) | Compensate() | Abandon()`` is tried from left to right: each step takes over where the one
before it has nothing more. A run whose policy is at its end has failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from kibo.model.errors import RunInvalid
from kibo.model.limits import (
    DEFAULT_ACTION_S,
    DEFAULT_LAUNCH_S,
    MAX_RUN_DEPTH,
    MAX_RUN_FORKS,
    MAX_RUN_RETRIES,
    MAX_RUN_WAIT_S,
)

#: Characters of what a fork is told to do otherwise, or a person is asked: a paragraph.
MAX_TEXT: Final = 2000
#: Steps of one policy.
MAX_STEPS: Final = 16


@dataclass(frozen=True)
class Step:
    """One thing to do about a failure. A base: use those below."""

    def __or__(self, other: Step | Chain) -> Chain:
        """Returns both, the other where this one has nothing more."""
        return chain(self) | other


@dataclass(frozen=True)
class Retry(Step):
    """Tries again after a pause, which grows. Failures that would come again the same way are passed on at once.

    Args:
        n: How many more attempts, from 1 to 1,000.
        backoff_s: The first pause.
        factor: How much longer each is than the one before it, from 1.
        max_backoff_s: The longest pause.
        jitter: The share of each pause that is left to chance, from 0 to 1, so that what has failed together does not
            come back together.
    """

    n: int = 1
    backoff_s: float = 1.0
    factor: float = 2.0
    max_backoff_s: float = 300.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        whole("n", self.n, 1, MAX_RUN_RETRIES)
        number("backoff_s", self.backoff_s, 0, MAX_RUN_WAIT_S)
        number("factor", self.factor, 1, 100)
        number("max_backoff_s", self.max_backoff_s, 0, MAX_RUN_WAIT_S)
        number("jitter", self.jitter, 0, 1)

    def pause_s(self, tries: int, chance: float) -> float:
        """Returns the pause before the next attempt.

        Args:
            tries: How many attempts this step has made.
            chance: From 0 to 1.
        """
        # The exponent is bounded: a float would overflow where the longest pause is long reached.
        grown = self.backoff_s * self.factor ** min(tries, 64)
        return min(self.max_backoff_s, grown) * (1 - self.jitter * chance)


@dataclass(frozen=True)
class Fork(Step):
    """Goes on as several runs, each in a fork of the last good snapshot. The first that succeeds counts.

    Args:
        n: How many, from 1 to 64.
        vary: What each is told to do otherwise, in order; those without are told nothing.
        depth: How often a fork that fails may be forked in turn; None for as often as the budget allows, which then
            must say how many branches.
    """

    n: int = 2
    vary: tuple[str, ...] = ()
    depth: int | None = 1

    def __post_init__(self) -> None:
        whole("n", self.n, 1, MAX_RUN_FORKS)
        object.__setattr__(self, "vary", strings("vary", self.vary, self.n))
        if self.depth is not None:
            whole("depth", self.depth, 1, MAX_RUN_DEPTH)


@dataclass(frozen=True)
class Compensate(Step):
    """Undoes what the run has done outside, in reverse order, as far as it can be undone; then goes on."""


@dataclass(frozen=True)
class AskPerson(Step):
    """Has a person say whether to try again or to give up.

    Args:
        question: What the person is asked.
        within_s: How long that is waited for.
    """

    question: str = ""
    within_s: float = 86400.0

    def __post_init__(self) -> None:
        text("question", self.question)
        number("within_s", self.within_s, 0, MAX_RUN_WAIT_S)


@dataclass(frozen=True)
class Abandon(Step):
    """Gives up: the run's branch is dropped. Nothing can follow it."""


@dataclass(frozen=True)
class Chain:
    """Steps in the order in which they are tried."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(step, Step) for step in self.steps):
            raise RunInvalid(
                "not a step of a policy", hint="Use Retry, Fork, Compensate, AskPerson, Abandon."
            )
        if len(self.steps) > MAX_STEPS:
            raise RunInvalid(f"{len(self.steps)} steps", hint=f"A policy has at most {MAX_STEPS}.")
        if any(isinstance(step, Abandon) for step in self.steps[:-1]):
            raise RunInvalid(
                "something follows Abandon()", hint="Put it last: nothing is left to go on with."
            )

    def __or__(self, other: Step | Chain) -> Chain:
        """Returns these steps, then the other's."""
        return Chain((*self.steps, *chain(other).steps))


@dataclass(frozen=True)
class Policy:
    """How long a run may take, and what is done where it fails.

    Args:
        timeout_s: From the beginning of an attempt's action to its result.
        start_timeout_s: From when an attempt has a node to the beginning of its action.
        queue_timeout_s: Of waiting for room; None for as long as it takes. It ends the run.
        total_timeout_s: From submission to the end, all attempts, pauses and forks included; None for none. It ends
            the run.
        retry: What is tried first; the same as the first step of `on_failure`.
        on_failure: One step, or several joined by bars.
        losses: How often the run is placed anew because its node was lost, before that counts as a failure: what takes
            its node down with it must not take them all.
    """

    timeout_s: float = DEFAULT_ACTION_S
    start_timeout_s: float = DEFAULT_LAUNCH_S
    queue_timeout_s: float | None = None
    total_timeout_s: float | None = None
    retry: Retry | None = None
    on_failure: Step | Chain | None = None
    losses: int = 3

    def __post_init__(self) -> None:
        for name in ("timeout_s", "start_timeout_s", "queue_timeout_s", "total_timeout_s"):
            value = getattr(self, name)
            if value is None and name in ("queue_timeout_s", "total_timeout_s"):
                continue
            number(name, value, 0, MAX_RUN_WAIT_S)
            if value == 0:
                raise RunInvalid(f"{name}=0: nothing could be done", hint="Give seconds, more than 0.")
        whole("losses", self.losses, 0, MAX_RUN_RETRIES)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise RunInvalid("retry= is no Retry", hint="Give Retry(3), and other steps to on_failure=.")
        if not isinstance(self.on_failure, Step | Chain | None):
            raise RunInvalid("on_failure= is no step", hint="Give Fork(n=3) | Abandon(), or one of them.")
        Chain(self.steps)  # both together are well formed, too

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is tried, in order."""
        first = () if self.retry is None else (self.retry,)
        return first if self.on_failure is None else (*first, *chain(self.on_failure).steps)

    @property
    def forks_for_ever(self) -> bool:
        """Whether nothing but a budget bounds its forks."""
        return any(isinstance(step, Fork) and step.depth is None for step in self.steps)


def chain(step: Step | Chain) -> Chain:
    """Returns one step, or several, as several."""
    return step if isinstance(step, Chain) else Chain((step,))


def whole(name: str, value: object, low: int, high: int) -> None:
    """Checks a whole number.

    Raises:
        RunInvalid: It is none, or out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RunInvalid(f"{name}={value!r}", hint=f"Give a whole number from {low} to {high:,}.")


def number(name: str, value: object, low: float, high: float) -> None:
    """Checks a number.

    Raises:
        RunInvalid: It is none, not finite, or out of range.
    """
    kind = isinstance(value, int | float) and not isinstance(value, bool)
    if not kind or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        raise RunInvalid(f"{name}={value!r}", hint=f"Give a number from {low:g} to {high:,g}.")


def text(name: str, value: object, most: int = MAX_TEXT) -> None:
    """Checks a text that every database takes.

    Raises:
        RunInvalid: It is none, too long, or has half a character or a zero.
    """
    sound = isinstance(value, str) and len(value) <= most and "\0" not in value
    if not sound or value.encode("utf-8", "replace").decode() != value:  # type: ignore[attr-defined]
        raise RunInvalid(f"{name}={str(value)[:80]!r}", hint=f"Give text of at most {most:,} characters.")


def strings(name: str, values: object, most: int) -> tuple[str, ...]:
    """Checks several texts. Returns them as they are kept.

    Raises:
        RunInvalid: They are none, or too many.
    """
    if isinstance(values, str) or not isinstance(values, tuple | list) or len(values) > most:
        raise RunInvalid(f"{name}={str(values)[:80]!r}", hint=f"Give a tuple of at most {most} texts.")
    for value in values:
        text(name, value)
    return tuple(values)
