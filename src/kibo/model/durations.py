"""Durations as people write them."""

from __future__ import annotations

from kibo.model.errors import InvalidInput

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Reads a duration: ``90``, ``90s``, ``1.5m``, ``2h``, ``7d``.

    Raises:
        InvalidInput: It is none.
    """
    number = text.rstrip("hmsd")
    try:
        value = float(number) * _UNITS[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        value = -1.0
    if not 0 <= value < 1e9:
        raise InvalidInput(f"{text!r} is no duration", hint="Write 90, 90s, 1.5m, 2h or 7d.")
    return value
