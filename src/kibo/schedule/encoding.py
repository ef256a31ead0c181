"""Requests, policies and failures as the store holds them: JSON, checked again when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any, Final, TypeVar

from kibo.model.errors import InvalidInput, StoreDamaged
from kibo.schedule.failing import Failure
from kibo.schedule.policy import Abandon, AskPerson, Chain, Compensate, Fork, Policy, Retry, Step
from kibo.schedule.request import Allowance, Rate, Request, Resources

T = TypeVar("T")

_STEPS: Final[dict[str, type[Step]]] = {
    each.__name__: each for each in (Retry, Fork, Compensate, AskPerson, Abandon)
}
#: What to do about a row that cannot be read.
NEWER: Final = (
    f"If a newer Kibo uses this store, it has written it: use that one here, too. Else: {StoreDamaged.remedy}"
)
_RETRIES: Final = ("never", "safe", "after", "unknown")
#: What reading a value that is none raises.
_NONE: Final = (ValueError, TypeError, KeyError, RecursionError, InvalidInput)
#: Requests that are remembered, of some 2 kB each: a run is read at each of its steps.
_REMEMBERED: Final = 4096


def packed(value: Any) -> bytes:
    """Writes a value of JSON in the one way in which equal values are equal bytes."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def packed_request(request: Request) -> bytes:
    """Writes a request, without what it is to do and where it belongs, which the store holds beside it."""
    left_out = ("work", "trace")
    told = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in left_out}
    told["policy"] = _policy(request.policy)
    told["limits"] = dict(request.limits)
    told["labels"] = dict(request.labels)
    told["rates"] = {key: [rate.starts, rate.per_s] for key, rate in request.rates.items()}
    told["resources"] = asdict(request.resources)
    told["budget"] = None if request.budget is None else asdict(request.budget)
    return packed(told)


def read_request(run: str, content: bytes) -> Request:
    """Reads a request, without what it is to do. Requests that were read lately are remembered: 0.1 ms less.

    Args:
        run: Whose it is, for the error.
        content: As `packed_request` has written it.

    Raises:
        StoreDamaged: It is none.
    """
    try:
        return _request(content)
    except _NONE as error:
        raise _damaged(f"the request of {run}") from error


@lru_cache(_REMEMBERED)
def _request(content: bytes) -> Request:
    told = _object(content)
    steps = [_STEPS[name](**values) for name, values in told["policy"].pop("steps")]
    told["policy"] = Policy(**told["policy"], on_failure=Chain(tuple(steps)))
    told["rates"] = {key: Rate(*values) for key, values in told["rates"].items()}
    told["resources"] = Resources(**told["resources"])
    told["budget"] = None if told["budget"] is None else Allowance(**told["budget"])
    return Request(work=b"", **told)


def rates_in(content: bytes) -> bool:
    """Tells whether a request, as `packed_request` has written it, names a rate; to read it takes 50 times as long."""
    # In a text that somebody has chosen, each quotation mark has a backslash before it.
    return b'"rates":{}' not in content


def packed_failure(failure: Failure | None) -> bytes | None:
    """Writes a failure."""
    return None if failure is None else packed(failure.bounded()._asdict())


def read_failure(run: str, content: bytes | None) -> Failure | None:
    """Reads a failure.

    Raises:
        StoreDamaged: It is none.
    """

    def read(told: dict[str, Any]) -> Failure:
        made = Failure(**told)
        if made.retry not in _RETRIES or not isinstance(made.code, str) or not isinstance(made.message, str):
            raise ValueError("not a failure")
        return made

    return None if content is None else unpacked(f"the failure of {run}", content, read)


def unpacked(what: str, content: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """Reads a value of JSON that a row holds.

    Raises:
        StoreDamaged: `read` cannot make anything of it.
    """
    try:
        return read(_object(content))
    except _NONE as error:
        raise _damaged(what) from error


def _object(content: bytes) -> dict[str, Any]:
    told = json.loads(content)
    if not isinstance(told, dict):
        raise TypeError("not an object")
    return told


def _damaged(what: str) -> StoreDamaged:
    return StoreDamaged(f"the store is damaged: {what} is none", hint=NEWER, details={"what": what})


def _policy(policy: Policy) -> Mapping[str, Any]:
    told: dict[str, Any] = {
        each.name: getattr(policy, each.name)
        for each in fields(policy)
        if each.name not in ("retry", "on_failure")
    }
    # `retry` is the first step: one place says what is tried.
    return told | {"steps": [[type(step).__name__, asdict(step)] for step in policy.steps]}
