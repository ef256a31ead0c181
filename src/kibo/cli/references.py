"""Boxes named on the command line: ``module:Name``, ``file.py:Name``, and sums of them with parameters."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from kibo.box.define import Box
from kibo.box.parameters import parameters_of
from kibo.model.errors import InvalidInput
from kibo.wiring.modules import file_module, named_module

_HINT = "Write module:Name, path/to/file.py:Name, or a sum such as 'file.py:Browser+Account(customer=ada)'."
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def load_box(reference: str, beside: Path = Path()) -> Box:
    """Returns the box that a reference names.

    Args:
        reference: ``SOURCE:TERM[+TERM...]``. A source is a module or the path of a file; a term is the name of a Box
            class with its parameters in parentheses, or of a definition that the module made. A term may have a
            source of its own, before a colon.
        beside: The directory that paths of files are relative to.

    Raises:
        InvalidInput: It has not that form, or names something that is not there or no Box.
        KiboError: What the definition itself is wrong in.
    """
    source = ""
    box: Box | None = None
    for term in _split(reference, "+"):
        head, opened, parameters = term.strip().partition("(")
        own, colon, name = head.rpartition(":")
        source = own if colon else source
        if not source or not name.strip() or (opened and not parameters.endswith(")")):
            raise InvalidInput(f"{reference!r} does not name a box", hint=_HINT)
        part = _part(_module(source.strip(), beside), name.strip(), parameters[:-1] if opened else None)
        box = part if box is None else box + part
    if box is None:
        raise InvalidInput("no box is named", hint=_HINT)
    return box


def _part(module: ModuleType, name: str, parameters: str | None) -> Box:
    found: Any = module
    for word in name.split("."):
        found = getattr(found, word, None)
    is_class = isinstance(found, type) and issubclass(found, Box)
    if not is_class and not isinstance(found, Box):
        boxes = sorted(
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Box) and value.__module__ == module.__name__
        )
        what = "nothing called" if found is None else "no Box called"
        raise InvalidInput(
            f"{module.__name__} has {what} {name!r}",
            hint=f"It has {', '.join(boxes)}." if boxes else "It defines no Box.",
            details={"module": module.__name__, "name": name},
        )
    if isinstance(found, Box):
        if parameters is not None:
            raise InvalidInput(
                f"{name} is a definition already and takes no parameters",
                hint=f"Write {name} alone.",
            )
        return found
    made: Box = found(**_parameters(found, parameters or ""))
    return made


def _parameters(cls: type[Box], text: str) -> dict[str, Any]:
    known = parameters_of(cls)
    given: dict[str, Any] = {}
    for item in _split(text, ","):
        if not item.strip():
            continue
        name, equals, value = item.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier():
            raise InvalidInput(
                f"{cls.__name__}({text}): {item.strip()!r} is no name=value",
                hint=f"{cls.__name__}(name=value)",
            )
        annotation = known[name][0] if name in known else str
        given[name] = _value(value, annotation)
    return given


def _value(text: str, annotation: Any) -> Any:
    """Reads a parameter: quoted text is text; the rest is JSON where the parameter is no text and it is JSON."""
    if len(text) >= 2 and text[0] in "'\"" and text[-1] == text[0]:
        return text[1:-1]
    if annotation is str or str(annotation).partition("|")[0].strip() in ("str", "Path", "pathlib.Path"):
        return text
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


def _split(text: str, separator: str) -> list[str]:
    """Splits at a character, except inside quotes and brackets."""
    parts, start, closers, quote = [], 0, "", ""
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _PAIRS:
            closers += _PAIRS[char]
        elif closers and char == closers[-1]:
            closers = closers[:-1]
        elif char == separator and not closers:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _module(source: str, beside: Path) -> ModuleType:
    if source.endswith(".py") or "/" in source:
        return file_module(beside / source)
    return named_module(source)
