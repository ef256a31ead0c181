"""Strategies: what is tried, each in a world of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kibo.model.errors import InvalidInput


@dataclass(frozen=True)
class Strategy:
    """One way to try it.

    Attributes:
        name: What people call it.
        fn: Called with the instance, or with the branch where a branch is explored. One that has a parameter named
            ``hint`` is given the policy's hint, or None.
        cost: What it costs beside the others, in any unit; `Cascade` tries the cheap ones first.
    """

    name: str
    fn: Callable[..., Any]
    cost: float = 0.0


def strategies_of(given: Iterable[Any]) -> tuple[Strategy, ...]:
    """Reads strategies as users write them: callables, pairs of a name and a callable, or `Strategy`.

    Raises:
        InvalidInput: Something else is among them.
    """
    return tuple(strategy_of(one) for one in given)


def strategy_of(given: Any) -> Strategy:
    """Reads one strategy; see `strategies_of`."""
    match given:
        case Strategy():
            return given
        case (str(name), fn, *cost) if callable(fn) and len(cost) < 2:
            return Strategy(name, fn, *cost)
        case _ if callable(given):
            name = getattr(given, "__name__", "") or type(given).__name__
            return Strategy("strategy" if name == "<lambda>" else name, given)
    raise InvalidInput(
        f"{given!r} is not a strategy", hint='Give a callable, ("name", callable) or Strategy(name, fn).'
    )


def called_with(fn: Callable[..., Any], *places: Any, **known: Any) -> Any:
    """Calls a user's function with the places it works in, and with what of `known` it has parameters for."""
    if known:
        try:
            parameters = inspect.signature(fn).parameters
        except (TypeError, ValueError):  # some callables written in C do not say
            parameters = {}  # type: ignore[assignment]  # a mapping all the same
        known = {name: value for name, value in known.items() if name in parameters}
    return fn(*places, **known)
