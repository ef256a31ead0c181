"""Annotations as types: strings in them are evaluated where the function or class can see what they name."""

import sys
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

from kibo.model.errors import InvalidDefinition
from kibo.model.record import annotations_of


def resolve(owner: FunctionType | type, *, strict: bool = True, cls: type | None = None) -> dict[str, Any]:
    """Returns the annotations of a function, or of the body of a class without its bases, by name.

    Args:
        owner: The function or class.
        strict: Whether a name that cannot be found is an error; otherwise that annotation stays as written.
        cls: The class that the function is a method of, whose body its annotations can also name.

    Raises:
        InvalidDefinition: An annotation names something that is not there, with `strict`.
    """
    local = dict(vars(cls)) if cls is not None else {}
    owner = _innermost(owner)
    if isinstance(owner, FunctionType):
        for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
            try:
                local.setdefault(name, cell.cell_contents)
            except ValueError:
                pass  # a cell that is not filled yet names nothing
        space = owner.__globals__
    else:
        space = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        local.update(vars(owner))
    try:
        body = SimpleNamespace(__annotations__=dict(_written(owner)))
        return get_type_hints(body, globalns=space, localns=local, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        if not strict:
            return dict(_written(owner))
        raise InvalidDefinition(
            f"an annotation of {owner.__qualname__} cannot be read: {error}",
            hint="Define or import the type at module level, before the box is used.",
            details={"where": owner.__qualname__},
        ) from error


def _innermost(owner: Any) -> Any:
    """What the decorators around a function wrap: its annotations name what its own module defines."""
    while hasattr(owner, "__wrapped__"):
        owner = owner.__wrapped__
    return owner


def _written(owner: FunctionType | type) -> dict[str, Any]:
    if isinstance(owner, type):
        return annotations_of(owner)
    try:
        return owner.__annotations__
    except NameError:  # Python 3.14 evaluates them here
        return {}
