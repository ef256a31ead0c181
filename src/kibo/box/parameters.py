"""The parameters of a Box: read from its annotations, checked when a definition is made."""

import copy
from typing import Any

from kibo.box.define import DEFINITION_NAMES, Action, Box, Use
from kibo.model.errors import InvalidDefinition
from kibo.model.record import annotations_of, is_class_variable

#: Stands for "no default".
REQUIRED: Any = type("REQUIRED", (), {"__repr__": lambda self: "REQUIRED"})()

_SCALARS: dict[Any, type] = {
    **{kind: kind for kind in (str, int, float, bool, bytes)},
    **{kind.__name__: kind for kind in (str, int, float, bool, bytes)},
}


def parameters_of(cls: type[Box]) -> dict[str, tuple[Any, Any, type]]:
    """Returns the parameters of `cls`, bases' first: name to (annotation, default or REQUIRED, defining class).

    A parameter is an annotated name without a leading underscore that is neither a ClassVar nor a need. The
    annotation may still be a string.
    """
    found: dict[str, tuple[Any, Any, type]] = {}
    for owner in reversed(cls.__mro__):
        if owner is Box or not issubclass(owner, Box):
            continue
        for name, annotation in annotations_of(owner).items():
            if (
                name.startswith("_")
                or is_class_variable(annotation)
                or isinstance(getattr(cls, name, None), Use)
            ):
                continue
            if name in DEFINITION_NAMES or isinstance(getattr(cls, name, None), Action):
                raise InvalidDefinition(
                    f"{owner.__name__}: a parameter cannot be called {name}",
                    hint="Annotate it as ClassVar if it is not a parameter.",
                    details={"parameter": name},
                )
            found[name] = (annotation, getattr(cls, name, REQUIRED), owner)
    return found


def settle_parameters(cls: type[Box], given: dict[str, Any]) -> dict[str, Any]:
    """Checks `given` against the parameters of `cls` and fills in the defaults.

    Returns:
        Every parameter by name, in the order of definition, as the annotated types. Mutable values are copies.

    Raises:
        InvalidDefinition: One is missing, unknown, or not of its type; says which, what was expected and what came.
    """
    known = parameters_of(cls)
    for name in given:
        if name not in known:
            raise InvalidDefinition(
                f"{cls.__name__} has no parameter {name!r}",
                hint=f"It has {', '.join(known)}." if known else "It takes none.",
                details={"parameter": name, "known": list(known)},
            )
    settled: dict[str, Any] = {}
    for name, (annotation, default, owner) in known.items():
        value = given.get(name, default)
        if value is REQUIRED:
            raise InvalidDefinition(
                f"{cls.__name__} needs {name!r}",
                hint=f"{cls.__name__}({name}=...)",
                details={"parameter": name},
            )
        if name in given and type(value) is not _SCALARS.get(annotation):
            value = _validated(cls, owner, name, annotation, value)
        settled[name] = value if type(value) in (str, int, float, bool, bytes) else copy.deepcopy(value)
    return settled


def _validated(cls: type[Box], owner: type, name: str, annotation: Any, value: Any) -> Any:
    from kibo.box.schema import validate_parameter  # pydantic: only where a type needs it

    return validate_parameter(cls, owner, name, annotation, value)
