"""Values as builtins that a message can hold: the way of arguments into a box and of results out of it.

Runs inside boxes, on whatever an action returned, and imports nothing: types are known by what they carry.
"""

from typing import Any

from kibo.model.errors import InvalidResult
from kibo.model.limits import MAX_VALUE_DEPTH

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1  # what a msgpack integer holds


def to_builtins(value: Any, _depth: int = 0) -> Any:
    """Returns `value` as None, bool, int, float, str, bytes, and lists and dicts of those.

    Takes builtins, dataclasses, pydantic models, named tuples, enums, sets, dates, times, Path, Decimal, Fraction and
    UUID. A value of a declared type comes back as that type on the other side, by validation.

    Raises:
        InvalidResult: It holds something else, an integer beyond 64 bits, or is nested too deeply. Never retry.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _checked_text(value)
    if kind is bool or value is None or kind is float or kind is bytes:
        return value
    if kind is int:
        return _checked_int(value)
    if _depth >= MAX_VALUE_DEPTH:
        raise InvalidResult(
            f"the value is nested more than {MAX_VALUE_DEPTH} deep", hint="Does it contain itself?"
        )
    inner = _depth + 1
    if kind is list or kind is tuple:
        return [to_builtins(item, inner) for item in value]
    if kind is dict:
        return {_key(key, inner): to_builtins(item, inner) for key, item in value.items()}
    return _object_to_builtins(value, kind, inner)


def _object_to_builtins(value: Any, kind: type, depth: int) -> Any:
    if hasattr(kind, "__members__") and hasattr(value, "_value_"):  # an enum's member
        return to_builtins(value._value_, depth)
    fields = getattr(kind, "__pydantic_fields__", None)
    if fields is None:
        fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None:
        return _fields_to_builtins(value, kind, fields, depth)
    if isinstance(value, list | tuple | set | frozenset):
        return [to_builtins(item, depth) for item in value]
    if isinstance(value, dict):
        return {_key(key, depth): to_builtins(item, depth) for key, item in value.items()}
    # Subclasses of builtins (a numpy float, a str with methods) travel as the builtin.
    builtin: Any
    for builtin in (str, int, float, bytes):
        if isinstance(value, builtin):
            return to_builtins(builtin.__new__(builtin, value), depth)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    for base in kind.__mro__:
        convert = _BY_NAME.get((base.__module__, base.__qualname__))
        if convert is not None:
            return convert(value)
    if hasattr(kind, "__fspath__"):
        return to_builtins(value.__fspath__(), depth)
    raise InvalidResult(
        f"a {kind.__module__}.{kind.__qualname__} cannot leave or enter a box",
        hint="Use builtins, dataclasses, pydantic models, enums, dates or paths.",
        details={"type": f"{kind.__module__}.{kind.__qualname__}"},
    )


def _fields_to_builtins(value: Any, kind: type, fields: Any, depth: int) -> Any:
    if getattr(kind, "__pydantic_root_model__", False):
        return to_builtins(value.root, depth)
    # Fields as they are stored, under their own names: a model's own serialisers may drop or reformat what the
    # validation on the other side needs.
    found = {name: to_builtins(getattr(value, name), depth) for name in fields if hasattr(value, name)}
    for name, extra in (getattr(value, "__pydantic_extra__", None) or {}).items():
        found[name] = to_builtins(extra, depth)
    return found


def _key(key: Any, depth: int) -> Any:
    plain = to_builtins(key, depth)
    if isinstance(plain, list | dict):
        raise InvalidResult(
            f"a dict key of type {type(key).__name__} cannot leave or enter a box", hint="Use strings."
        )
    return plain


def _checked_int(value: int) -> int:
    if not _MIN_INT <= value <= _MAX_INT:
        raise InvalidResult(
            "an integer beyond 64 bits cannot leave or enter a box", hint="Send it as a string."
        )
    return value


def _checked_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidResult(
            "a string with lone surrogates cannot leave or enter a box",
            hint="Send undecodable text as bytes.",
        ) from None
    return value


def _duration(value: Any) -> str:
    micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    sign = "-" if micros < 0 else ""
    seconds, fraction = divmod(abs(micros), 1_000_000)
    return f"{sign}PT{seconds}.{fraction:06}S"


_BY_NAME: dict[tuple[str, str], Any] = {
    ("datetime", "datetime"): lambda value: value.isoformat(),
    ("datetime", "date"): lambda value: value.isoformat(),
    ("datetime", "time"): lambda value: value.isoformat(),
    ("datetime", "timedelta"): _duration,
    ("decimal", "Decimal"): str,
    ("fractions", "Fraction"): str,
    ("uuid", "UUID"): str,
}
