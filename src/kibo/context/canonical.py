"""JSON of which there is one writing: the bytes that prompts are compared, counted and cached by."""

from __future__ import annotations

import json
from typing import Any, Final

from kibo.model.errors import ContextInvalid

#: How deep lists and dictionaries of a part may lie in each other; tools' arguments have a handful of levels.
MAX_DEPTH: Final = 64


def canonical(value: Any) -> str:
    """Writes a value of JSON: keys in order, no blanks, every character as itself."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def checked_text(text: object, what: str, *, repair: bool = False) -> str:
    """Checks that something is text that every database and provider takes.

    Args:
        text: What should be text.
        what: What it is, for the error.
        repair: Whether to put U+FFFD in place of lone surrogates, which are halves of characters.

    Raises:
        ContextInvalid: It is none, or has lone surrogates that are not to be repaired.
    """
    if not isinstance(text, str):
        raise ContextInvalid(
            f"{what} is {type(text).__name__}, not text",
            hint="Give a str; decode bytes first, with errors='replace' where they may be no text.",
            details={"type": type(text).__name__},
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if repair:
            return "".join("\N{REPLACEMENT CHARACTER}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
        raise ContextInvalid(
            f"{what} has half a character, {text[error.start]!a}, at index {error.start}",
            hint="It was decoded with surrogateescape, or cut within a character. Repair it with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace').",
            details={"index": error.start, "character": ascii(text[error.start])},
        ) from None
    return text


def checked_json(value: Any, what: str, *, repair: bool = False, depth: int = 0) -> Any:
    """Checks that something is a value of JSON, all of its texts included, and returns it.

    Raises:
        ContextInvalid: It is none, has lone surrogates that are not to be repaired, or is nested too deep.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ContextInvalid(
                f"{what} has {value}, which JSON cannot write", hint="Write it as text, or leave it out."
            )
        return value
    if isinstance(value, str):
        return checked_text(value, what, repair=repair)
    if depth >= MAX_DEPTH:
        raise ContextInvalid(
            f"{what} is nested deeper than {MAX_DEPTH} levels", hint="Give it as text, with json.dumps."
        )
    if isinstance(value, list | tuple):
        return [checked_json(each, what, repair=repair, depth=depth + 1) for each in value]
    if isinstance(value, dict):
        return {
            checked_text(key, f"a key of {what}", repair=repair): checked_json(
                each, what, repair=repair, depth=depth + 1
            )
            for key, each in value.items()
        }
    raise ContextInvalid(
        f"{what} has {type(value).__name__}, which JSON cannot write",
        hint="Use str, int, float, bool, None, list and dict.",
        details={"type": type(value).__name__},
    )
