"""What entries are made of: parts of a message, and calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kibo.context.canonical import canonical, checked_json, checked_text
from kibo.model.errors import ContextInvalid

#: The providers whose forms prompts, imports and exports have.
Format = Literal["anthropic", "openai"]
FORMATS: Final[tuple[Format, ...]] = ("anthropic", "openai")

#: Characters of a call's id or a tool's name, far more than providers use.
MAX_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A part that is carried as one provider has it, such as an image: the other's prompts say that it is left out.

    Attributes:
        format: Whose it is.
        value: The part, as JSON.
        tokens: What it counts in a prompt; None to count its JSON, which for an image is many times too much.
    """

    format: Format
    value: Mapping[str, Any]
    tokens: int | None = None


Part = Text | Opaque
#: What a message may be given as.
Content = str | Sequence[str | Part]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's call, as a model asked for it.

    Attributes:
        id: What its result names it by.
        name: The tool's.
        arguments: JSON as text; what a model wrote may be none.
    """

    id: str
    name: str
    arguments: str = "{}"


def checked_format(format: str) -> Format:
    """Checks the name of a provider's form.

    Raises:
        ContextInvalid: There is no such form.
    """
    for known in FORMATS:
        if format == known:
            return known
    raise ContextInvalid(f"there is no format {format!r}", hint=f"Use one of {', '.join(FORMATS)}.")


def checked_parts(
    content: Content, what: str, *, empty: bool = False, repair: bool = False
) -> tuple[Part, ...]:
    """Checks the content of a message, and turns what is convenient to write into parts.

    Args:
        content: Text, or texts and parts.
        what: What it is, for errors.
        empty: Whether it may say nothing: providers refuse messages of blanks alone.
        repair: See `checked_text`.

    Raises:
        ContextInvalid: It is none.
    """
    given: Sequence[Any] = [content] if isinstance(content, str | bytes) else content
    if not isinstance(given, Sequence):
        raise ContextInvalid(
            f"{what} is {type(content).__name__}", hint="Give text, or a list of texts and parts."
        )
    parts = tuple(_part(each, what, repair) for each in given)
    if not empty and not any(isinstance(part, Opaque) or part.text.strip() for part in parts):
        raise ContextInvalid(f"{what} says nothing", hint="Providers refuse empty messages: leave it out.")
    return parts


def _part(given: Any, what: str, repair: bool) -> Part:
    if isinstance(given, Opaque):
        value = checked_json(dict(given.value), f"a part of {what}", repair=repair)
        if given.tokens is not None and not 0 <= given.tokens < 1 << 31:
            raise ContextInvalid(f"a part of {what} counts {given.tokens} tokens", hint="Give 0 or more.")
        return Opaque(checked_format(given.format), value, given.tokens)
    return Text(checked_text(given.text if isinstance(given, Text) else given, what, repair=repair))


def checked_calls(calls: Sequence[Call | Mapping[str, Any]], *, repair: bool = False) -> tuple[Call, ...]:
    """Checks the calls of one message: each has an id of its own.

    Args:
        calls: Calls, or dictionaries with ``id``, ``name`` and ``arguments``.
        repair: See `checked_text`.

    Raises:
        ContextInvalid: One is none, or two have one id.
    """
    found = tuple(_call(each, repair) for each in calls)
    seen: set[str] = set()
    for call in found:
        if call.id in seen:
            raise ContextInvalid(
                f"two calls of one message have the id {call.id!r}",
                hint="Give each its own: results name their call by it.",
                details={"call": call.id},
            )
        seen.add(call.id)
    return found


def _call(given: Call | Mapping[str, Any], repair: bool) -> Call:
    if isinstance(given, Call):
        return called(given.id, given.name, given.arguments, repair=repair)
    try:
        unknown = set(given) - {"id", "name", "arguments"}
        if not unknown:
            return called(given["id"], given["name"], given.get("arguments", {}), repair=repair)
    except (KeyError, TypeError) as error:
        raise ContextInvalid(
            f"a tool's call is no call: {error}",
            hint='Give kibo.context.parts.Call, or {"id", "name", "arguments"}.',
        ) from None
    raise ContextInvalid(
        f"a tool's call has {', '.join(sorted(map(str, unknown)))}", hint="It takes id, name and arguments."
    )


def called(call_id: Any, name: Any, arguments: Any, *, repair: bool = False) -> Call:
    """Makes a call. Arguments are JSON as text, which is kept as it is, or a value of JSON.

    Raises:
        ContextInvalid: The id or the name is empty or too long, or something is no JSON.
    """
    for what, value in (("a call's id", call_id), ("a tool's name", name)):
        if not 0 < len(checked_text(value, what)) <= MAX_NAME:
            raise ContextInvalid(f"{what} has {len(value)} characters", hint=f"Give 1 to {MAX_NAME}.")
    if isinstance(arguments, str):
        return Call(call_id, name, checked_text(arguments, "a call's arguments", repair=repair))
    return Call(call_id, name, canonical(checked_json(arguments, "a call's arguments", repair=repair)))


def text_of(parts: Sequence[Part]) -> str:
    """Returns the text of a message; parts that are none are named in brackets."""
    return "".join(part.text if isinstance(part, Text) else named(part) for part in parts)


def named(part: Opaque) -> str:
    """Says what a part is that is not shown."""
    kind = part.value.get("type")
    return f"[{kind if isinstance(kind, str) else 'part'} of {part.format}'s format]"
