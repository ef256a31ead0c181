"""Providers' lists of messages, read as entries. What is not understood is refused; nothing is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kibo.context.canonical import checked_json
from kibo.context.entries import Assistant, ContextEntry, System, ToolResult, User
from kibo.context.parts import Format, Opaque, Part, Text, called, checked_calls, checked_parts
from kibo.model.errors import ContextInvalid
from kibo.model.ids import EntryId

#: Where to cache is said anew with each request; it is no part of what was said.
_UNSAID: Final = frozenset({"cache_control"})


def entries_of(messages: Iterable[Any], format: Format, *, repair: bool = False) -> list[ContextEntry]:
    """Reads a list of messages.

    Args:
        messages: As a provider takes them. Anthropic's instructions, which are beside its messages, are given as a
            first message whose role is ``system``.
        format: Whose they are.
        repair: Whether lone surrogates become U+FFFD instead of an error.

    Raises:
        ContextInvalid: One is none; the error names its index, and what about it.
    """
    read: Callable[[Mapping[str, Any], bool], Iterator[ContextEntry]]
    read = _anthropic if format == "anthropic" else _openai
    found: list[ContextEntry] = []
    if isinstance(messages, str | bytes | Mapping):
        raise ContextInvalid(
            f"{type(messages).__name__} is no list of messages",
            hint='Give the list itself, such as body["messages"].',
        )
    for index, message in enumerate(messages):
        try:
            if not isinstance(message, Mapping):
                raise _wrong(f"it is {type(message).__name__}", "Each message is a dictionary with a role.")
            found += read(message, repair)
        except ContextInvalid as error:
            raise ContextInvalid(
                f"message {index} is no message of {format}'s: {error.message}",
                hint=error.hint,
                details={**error.details, "index": index, "format": format},
            ) from error
    return found


def _wrong(what: str, hint: str) -> ContextInvalid:
    return ContextInvalid(what, hint=hint)


def _only(message: Mapping[str, Any], *known: str) -> None:
    strange = [str(key) for key, value in message.items() if key not in known and value not in (None, [], {})]
    if strange:
        raise _wrong(
            f"it has {', '.join(sorted(strange))}",
            f"A context keeps {', '.join(known)}: take the rest out, or keep it as a note.",
        )


def _role(message: Mapping[str, Any], roles: Sequence[str]) -> str:
    role = message.get("role")
    if role not in roles:
        raise _wrong(f"its role is {role!r}", f"Use one of {', '.join(roles)}.")
    return str(role)


def _field(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, str) or not found:
        raise _wrong(f"its {name} is {found!r}", f"{name} is text that is not empty.")
    return found


# -- Anthropic


def _anthropic(message: Mapping[str, Any], repair: bool) -> Iterator[ContextEntry]:
    role = _role(message, ("system", "user", "assistant"))
    _only(message, "role", "content")
    blocks = _blocks(message.get("content"))
    if role == "assistant":
        yield _model(blocks, repair)
        return
    if role == "system":
        yield System(id=EntryId.new(), parts=_parts(blocks, "anthropic", repair))
        return
    results = [block for block in blocks if block.get("type") == "tool_result"]
    if blocks[: len(results)] != results:
        raise _wrong(
            "a tool_result comes after something else", "Put tool_result blocks first, as the API wants them."
        )
    for block in results:
        yield _result(block, repair)
    if rest := blocks[len(results) :]:
        yield User(id=EntryId.new(), parts=_parts(rest, "anthropic", repair))


def _blocks(content: Any) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if (
        not isinstance(content, Sequence)
        or not content
        or not all(isinstance(each, Mapping) for each in content)
    ):
        raise _wrong(
            f"its content is {type(content).__name__}", "Content is text, or a list of blocks, and not empty."
        )
    return list(content)


def _model(blocks: list[Mapping[str, Any]], repair: bool) -> Assistant:
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    said = [block for block in blocks if block.get("type") != "tool_use"]
    if calls and blocks[-len(calls) :] != calls:
        raise _wrong(
            "something is said after a tool_use", "Put it into a message of its own, or before the call."
        )
    made = [
        called(block.get("id"), block.get("name"), _object(block.get("input")), repair=repair)
        for block in calls
    ]
    parts = _parts(said, "anthropic", repair) if said else ()
    return Assistant(id=EntryId.new(), parts=parts, calls=checked_calls(made))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(f"the input of a tool_use is {type(value).__name__}", "It is an object.")
    return dict(value)


def _result(block: Mapping[str, Any], repair: bool) -> ToolResult:
    _only(block, "type", "tool_use_id", "content", "is_error", *_UNSAID)
    content, error = block.get("content", ""), block.get("is_error", False)
    if not isinstance(error, bool):
        raise _wrong(f"its is_error is {error!r}", "It is true or false.")
    parts = _parts(_blocks(content), "anthropic", repair, empty=True) if content else (Text(""),)
    return ToolResult(id=EntryId.new(), parts=parts, call_id=_field(block, "tool_use_id"), error=error)


def _parts(
    blocks: Iterable[Mapping[str, Any]], format: Format, repair: bool, *, empty: bool = False
) -> tuple[Part, ...]:
    return checked_parts([_part(block, format) for block in blocks], "it", empty=empty, repair=repair)


def _part(block: Mapping[str, Any], format: Format) -> Part:
    own = {key: value for key, value in block.items() if key not in _UNSAID}
    if not isinstance(block.get("type"), str):
        raise _wrong("a part has no type", 'Such as {"type": "text", "text": "..."}.')
    if set(own) == {"type", "text"} and own["type"] == "text" and isinstance(own["text"], str):
        return Text(own["text"])
    if own["type"] == "text" and not isinstance(own.get("text"), str):
        raise _wrong(f"its text is {type(own.get('text')).__name__}", "Text is a str.")
    return Opaque(format, checked_json(own, "a part"))


# -- OpenAI


def _openai(message: Mapping[str, Any], repair: bool) -> Iterator[ContextEntry]:
    role = _role(message, ("system", "developer", "user", "assistant", "tool"))
    content = message.get("content")
    if role == "assistant":
        _only(message, "role", "content", "tool_calls")
        calls = checked_calls([_function(each, repair) for each in message.get("tool_calls") or ()])
        parts = _contents(content, repair, empty=True) if content else ()
        if not calls and not parts:
            raise _wrong("a model says nothing and calls nothing", "Leave it out.")
        yield Assistant(id=EntryId.new(), parts=parts, calls=calls)
    elif role == "tool":
        _only(message, "role", "content", "tool_call_id")
        parts = _contents(content, repair, empty=True)
        yield ToolResult(id=EntryId.new(), parts=parts, call_id=_field(message, "tool_call_id"))
    else:
        _only(message, "role", "content")
        cls = User if role == "user" else System
        yield cls(id=EntryId.new(), parts=_contents(content, repair))


def _contents(content: Any, repair: bool, *, empty: bool = False) -> tuple[Part, ...]:
    if isinstance(content, str):
        return checked_parts(content, "it", empty=empty, repair=repair)
    return _parts(_blocks(content), "openai", repair, empty=empty)


def _function(call: Any, repair: bool) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise _wrong(
            "a tool call is none of a function", 'Such as {"id", "type": "function", "function": {...}}.'
        )
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        raise _wrong(f"a call's arguments are {type(arguments).__name__}", "They are JSON as text.")
    return called(call.get("id"), function.get("name"), arguments, repair=repair)
