"""Entries as providers read them: pieces, each one line of canonical JSON, whose bytes never change.

A piece is a whole message for OpenAI, and one block of a message for Anthropic, which wants roles to alternate: there
the blocks of one role that follow each other are one message. A prompt's bytes are its pieces' lines, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kibo.context.canonical import canonical, checked_json
from kibo.context.entries import ContextEntry, Memory, Note, Said, Summary, System, ToolResult
from kibo.context.parts import Call, Format, Opaque, Part, Text, named, text_of
from kibo.context.tokens import Tokenizer
from kibo.context.units import Unit
from kibo.model.errors import ContextInvalid

#: What stands for the result of a call that got none.
NO_RESULT: Final = "[no result: the call was given up]"
#: What Anthropic, whose conversations begin with a user, is told before a model's first words.
BEFORE: Final = "[the conversation began earlier]"


@dataclass(frozen=True, slots=True)
class Piece:
    """What a provider reads at once.

    Attributes:
        role: Whose it is.
        value: The message or the block.
        line: It and its role as canonical JSON.
        counted: What of the line a tokenizer counts.
        tokens: What counts besides: of parts that say themselves what they count.
    """

    role: str
    value: dict[str, Any]
    line: str
    counted: str
    tokens: int = 0

    def size(self, tokenizer: Tokenizer) -> int:
        """Counts its tokens."""
        return tokenizer.count(self.counted) + self.tokens


def pieces_of(unit: Unit, format: Format) -> list[Piece]:
    """Writes a unit in a provider's form."""
    if format == "anthropic":
        return _anthropic(unit)
    return _openai(unit)


def system_piece(entry: System, format: Format) -> Piece:
    """Writes instructions: a block of Anthropic's `system`, or one of OpenAI's messages."""
    if format == "anthropic":
        return _piece("system", {"type": "text", "text": entry.text}, "anthropic")
    return _piece("system", {"role": "system", "content": entry.text}, "openai")


def before_piece() -> Piece:
    """Writes what Anthropic is told before a model's first words."""
    return _piece("user", {"type": "text", "text": BEFORE}, "anthropic")


def tokens_of(pieces: Iterable[Piece], tokenizer: Tokenizer) -> int:
    """Counts the tokens of pieces."""
    return sum(piece.size(tokenizer) for piece in pieces)


def joined(pieces: Sequence[Piece], format: Format) -> list[dict[str, Any]]:
    """Returns pieces as a provider's list of messages."""
    if format == "openai":
        return [piece.value for piece in pieces]
    messages: list[dict[str, Any]] = []
    for piece in pieces:
        if not messages or messages[-1]["role"] != piece.role:
            messages.append({"role": piece.role, "content": []})
        messages[-1]["content"].append(piece.value)
    return messages


def _piece(role: str, value: dict[str, Any], format: Format, known: Sequence[Opaque] = ()) -> Piece:
    line = canonical(value if format == "openai" else {"role": role, "content": value})
    counted, tokens = line, 0
    for part in known:
        if part.tokens is not None:
            counted, tokens = counted.replace(canonical(part.value), "", 1), tokens + part.tokens
    return Piece(role, value, line, counted, tokens)


def shown(entry: ContextEntry) -> tuple[Part, ...]:
    """Returns what a model is shown of an entry that is no call: what is nobody's turn is marked as what it is."""
    if not isinstance(entry, Said):
        return (Text(entry.text),)
    if isinstance(entry, Note | Memory):
        return _marked(entry.word, entry.parts)
    if isinstance(entry, Summary):
        return _marked(f'summary of="{entry.covers.count} entries"', entry.parts)
    return entry.parts


def _marked(tag: str, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return (Text(f"<{tag}>\n{text_of(parts)}\n</{tag.partition(' ')[0]}>"),)


# -- Anthropic


def _anthropic(unit: Unit) -> list[Piece]:
    first, calls = unit.entries[0], unit.calls()
    if not calls:
        role = "assistant" if first.word == "assistant" else "user"
        return [_block(role, part) for part in shown(first) if not _blank(part)]
    said = [_block("assistant", part) for part in _words(unit) if not _blank(part)]
    asked = [
        _piece("assistant", {"type": "tool_use", "id": c.id, "name": c.name, "input": _input(c)}, "anthropic")
        for c in calls
    ]
    results = unit.results()
    return said + asked + [_answered(call, results.get(call.id)) for call in calls]


def _words(unit: Unit) -> tuple[Part, ...]:
    first = unit.entries[0]
    return first.parts if isinstance(first, Said) else ()


def _blank(part: Part) -> bool:
    return isinstance(part, Text) and not part.text.strip()


def _value(part: Part, format: Format) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return dict(part.value) if part.format == format else {"type": "text", "text": named(part)}


def _own(parts: Iterable[Part], format: Format) -> list[Opaque]:
    return [part for part in parts if isinstance(part, Opaque) and part.format == format]


def _block(role: str, part: Part) -> Piece:
    return _piece(role, _value(part, "anthropic"), "anthropic", _own([part], "anthropic"))


def _input(call: Call) -> dict[str, Any]:
    """Returns a call's arguments as the object that Anthropic wants; what is none is put into one."""
    try:
        value = checked_json(json.loads(call.arguments), "the arguments")
    except (ValueError, RecursionError, ContextInvalid):
        value = None  # also what JSON's reader takes and no writer: NaN, and halves of a character
    return value if isinstance(value, dict) else {"arguments": call.arguments}


def _answered(call: Call, result: ToolResult | None) -> Piece:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": call.id}
    if result is None:
        return _piece("user", {**block, "content": NO_RESULT, "is_error": True}, "anthropic")
    parts = [part for part in result.parts if not _blank(part)]
    if _own(parts, "anthropic"):
        block["content"] = [_value(part, "anthropic") for part in parts]
    else:
        block["content"] = result.text
    error = {"is_error": True} if result.error else {}
    return _piece("user", {**block, **error}, "anthropic", _own(parts, "anthropic"))


# -- OpenAI


def _openai(unit: Unit) -> list[Piece]:
    first, calls = unit.entries[0], unit.calls()
    role = "assistant" if first.word == "assistant" or calls else "user"
    parts = shown(first) if not calls else _words(unit)
    message: dict[str, Any] = {"role": role, "content": _content(parts)}
    if not calls:
        return [_piece(role, message, "openai", _own(parts, "openai"))]
    message["content"] = message["content"] or None
    message["tool_calls"] = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in calls
    ]
    results = unit.results()
    return [
        _piece(role, message, "openai", _own(parts, "openai")),
        *(_told(call, results.get(call.id)) for call in calls),
    ]


def _content(parts: Sequence[Part]) -> Any:
    if _own(parts, "openai") or len([part for part in parts if isinstance(part, Text)]) > 1:
        return [_value(part, "openai") for part in parts]
    return text_of(parts)


def _told(call: Call, result: ToolResult | None) -> Piece:
    parts = () if result is None else result.parts
    content = NO_RESULT if result is None else _content(parts)
    return _piece(
        "tool", {"role": "tool", "tool_call_id": call.id, "content": content}, "openai", _own(parts, "openai")
    )
