"""An action's arguments as they stand on a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kibo.box.actions import ActionSpec
from kibo.box.tools import argument_schema
from kibo.model.errors import InvalidInput


def read_arguments(spec: ActionSpec, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Reads ``name=value``, plain values by position, and JSON objects (by name) and lists (by position).

    A value is text where its parameter takes text; else JSON, or text where it is none. Whether it suits is for the
    action's own check to say.

    Raises:
        InvalidInput: Something begins like a JSON object or list and is none, or like an option that there is not.
    """
    properties = argument_schema(spec, {})["properties"]
    names = list(properties)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            named[name] = _value(value, properties.get(name, {}))
            continue
        here = properties.get(names[len(positional)], {}) if len(positional) < len(names) else {}
        if word[:1] in ("{", "[") and not _takes_text(here):
            document = _document(word)
            if isinstance(document, dict) and here.get("type") != "object":
                named |= document
            elif isinstance(document, list) and here.get("type") != "array":
                positional += document
            else:
                positional.append(document)
        elif word[:1] == "{" and len(words) == 1:
            named |= _document(word)
        else:
            positional.append(_value(word, here))
    option = next((word for word in words if word.startswith("--")), "")
    if option and len(positional) > len(names):
        raise InvalidInput(
            f"there is no option {option}, and {spec.name}() takes no argument of that name",
            hint="What follows the action's name is its arguments; --help tells the options.",
        )
    return positional, named


def _document(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError as error:
        raise InvalidInput(f"{word[:60]!r} is no JSON: {error}", hint="Quote it for your shell.") from None


def _value(text: str, schema: dict[str, Any]) -> Any:
    if _takes_text(schema) and not (text == "null" and _takes_null(schema)):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _takes_text(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "string" or any(_takes_text(choice) for choice in schema.get("anyOf", ()))


def _takes_null(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "null" or any(_takes_null(choice) for choice in schema.get("anyOf", ()))
