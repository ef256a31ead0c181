"""Everything that needs pydantic: validation of what is not plain, and JSON Schema.

Imported on first use: by the host where a type needs it, by a guest where an action's arguments do.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning

from kibo.box.annotations import resolve
from kibo.box.define import Box
from kibo.box.inheritance import actions_of
from kibo.box.signature import Signature, Slot, read_signature, shown
from kibo.model.errors import InvalidDefinition

#: Problems that one error message names; the rest is the same kind of wrong.
_MAX_PROBLEMS = 5


class ValueRefused(Exception):
    """A value is not of its declared type; its text continues a message that names both."""


def adapter_of(slot: Slot) -> "TypeAdapter[Any]":
    """Returns the validator of a slot, made once.

    Raises:
        InvalidDefinition: Values of its type cannot be described, and so cannot travel.
    """
    if slot.adapter is None:
        slot.adapter = _adapter(slot.type, slot.name)
    adapter: TypeAdapter[Any] = slot.adapter
    return adapter


def _adapter(annotation: Any, name: str) -> "TypeAdapter[Any]":
    try:
        return TypeAdapter(annotation)
    except (PydanticUserError, NameError) as error:
        raise InvalidDefinition(
            f"{name!r}: values of type {shown(annotation)} cannot enter or leave a box",
            hint="Use builtins, dataclasses, pydantic models, enums, dates or paths.",
            details={"type": shown(annotation)},
        ) from error


def validated(slot: Slot, value: Any) -> Any:
    """Returns `value` as the slot's type.

    Plain types are taken strictly (``"3"`` is no int); others also from the builtins that stand for them in a message
    (an ISO date for a date, a list for a tuple, a dict for a model).

    Raises:
        ValueRefused: It is not.
    """
    return _validate(adapter_of(slot), value, strict=slot.plain)


def _validate(adapter: "TypeAdapter[Any]", value: Any, *, strict: bool) -> Any:
    try:
        # Field names as well as aliases: `to_builtins` sends the fields' own names.
        return adapter.validate_python(value, strict=strict or None, by_alias=True, by_name=True)
    except ValidationError as error:
        raise ValueRefused(_problems(error)) from None


def _problems(error: ValidationError) -> str:
    """The problems with their places, without the values: these may be large, or secret."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    shown_problems = [
        f"{'.'.join(map(str, p['loc']))}: {p['msg']}" if p["loc"] else str(p["msg"])
        for p in problems[:_MAX_PROBLEMS]
    ]
    more = len(problems) - len(shown_problems)
    return f" ({'; '.join(shown_problems)}{f'; and {more} more' if more else ''})"


def validate_parameter(cls: type[Box], owner: type, name: str, annotation: Any, value: Any) -> Any:
    """Returns `value` as the parameter's type; see `kibo.box.parameters`.

    Raises:
        InvalidDefinition: It is not of that type, or the type cannot be found.
    """
    if isinstance(annotation, str) or "ForwardRef" in repr(annotation):
        annotation = resolve(owner)[name]
    slot = Slot(name, annotation)
    try:
        return validated(slot, value)
    except ValueRefused as refused:
        got = type(value).__name__
        raise InvalidDefinition(
            f"{cls.__name__}: {name!r} must be {shown(annotation)}, got {got}{refused}",
            hint=f"Give {cls.__name__}({name}=...) what it is annotated with, or mend the annotation.",
            details={"parameter": name, "expected": shown(annotation), "got": got},
        ) from None


@cache
def _signature(cls: Any, action: str) -> Signature:
    return read_signature(cls, actions_of(cls)[action])


def restore_arguments(
    cls: type[Box], action: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Turns the builtins of a checked call back into the declared types. Runs in the guest.

    Raises:
        ValueRefused: They are not of those types; the host checks first, so this is a bug or another version.
    """
    known: Any = cls  # to mypy a class with `__hash__` of its own is not hashable
    parameters = _signature(known, action).parameters
    by_name = {slot.name: slot for slot in parameters}
    return (
        [_restored(slot, value) for slot, value in zip(parameters, args, strict=False)],
        {name: _restored(by_name[name], value) for name, value in kwargs.items()},
    )


def _restored(slot: Slot, value: Any) -> Any:
    return value if slot.plain else validated(slot, value)


def json_schema(slot: Slot) -> dict[str, Any]:
    """Returns the JSON Schema of a slot's type, with its default where JSON can hold it, and without titles.

    Its definitions are named after their types alone.
    """
    adapter = adapter_of(slot)
    schema: dict[str, Any] = _untitled(_briefly_named(adapter.json_schema(mode="validation")))
    if not slot.required:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", PydanticJsonSchemaWarning)
                schema["default"] = adapter.dump_python(slot.default, mode="json", warnings=False)
        except (ValueError, TypeError, PydanticJsonSchemaWarning):
            pass  # a default that JSON cannot hold is the action's own affair: the argument is optional all the same
    return schema


_DEFINED = "#/$defs/"


def _briefly_named(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions named as their types are: where two share a name, pydantic adds their modules."""
    names: dict[str, str] = {}
    for key, definition in schema.get("$defs", {}).items():
        brief = re.sub(r"[^\w.-]", "_", definition.get("title", key))
        name, number = brief, 1
        while name in names.values():
            number += 1
            name = f"{brief}_{number}"
        names[key] = name
    return renamed(schema, names)


def renamed(schema: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The schema with other names for its definitions, old to new; all that it has must be among them."""
    if not names:
        return schema
    references = {_DEFINED + old: _DEFINED + new for old, new in names.items()}
    result: dict[str, Any] = _referring(
        {name: part for name, part in schema.items() if name != "$defs"}, references
    )
    definitions = {names[old]: _referring(part, references) for old, part in schema["$defs"].items()}
    return {**result, "$defs": definitions}


def _referring(schema: Any, references: Mapping[str, str]) -> Any:
    if isinstance(schema, list):
        return [_referring(item, references) for item in schema]
    if isinstance(schema, dict):
        return {key: _referring(item, references) for key, item in schema.items()}
    return references.get(schema, schema) if isinstance(schema, str) else schema


def _untitled(schema: Any, *, names: bool = False) -> Any:
    """The schema without the titles that pydantic makes from names; `names` says that its keys are property names."""
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _untitled(value, names=not names and key in ("properties", "$defs"))
        for key, value in schema.items()
        if names or not (key == "title" and isinstance(value, str))
    }
