"""What events are called, and patterns of it: words joined by dots, as NATS has its subjects.

``*`` stands for one word, and ``>``, at the end, for one or more: ``order.*.paid``, ``order.>``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from kibo.model.errors import InvalidInput
from kibo.model.limits import MAX_NAME

_WORD = re.compile(r"[A-Za-z0-9_-]+")


def checked_event(name: object) -> str:
    """Returns the name of an event.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(name, str) and len(name) <= MAX_NAME and all(map(_WORD.fullmatch, name.split("."))):
        return name
    raise InvalidInput(
        f"not the name of an event: {str(name)[:80]!r}",
        hint=f"Words of letters, digits, _ and -, joined by dots, at most {MAX_NAME} characters: order.paid.",
    )


def checked_pattern(pattern: object) -> str:
    """Returns a pattern of events' names.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(pattern, str) and len(pattern) <= MAX_NAME:
        *before, last = pattern.split(".")
        if (last in (">", "*") or _WORD.fullmatch(last)) and all(
            word == "*" or _WORD.fullmatch(word) for word in before
        ):
            return pattern
    raise InvalidInput(
        f"not a pattern of events: {str(pattern)[:80]!r}",
        hint=f"Words joined by dots, at most {MAX_NAME} characters; * stands for a word, > at the end for all that "
        "follows.",
    )


@lru_cache(maxsize=4096)
def matches(pattern: str, name: str) -> bool:
    """Tells whether an event's name is one that a pattern stands for."""
    wanted, words = pattern.split("."), name.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(wanted) == len(words) and all(
        each in ("*", word) for each, word in zip(wanted, words, strict=True)
    )
