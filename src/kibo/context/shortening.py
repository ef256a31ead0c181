"""Units that are larger than a prompt has room for, cut for one prompt. The entries stay as they are."""

from __future__ import annotations

import dataclasses

from kibo.context.canonical import canonical
from kibo.context.entries import Assistant, ContextEntry, Said, ToolCall
from kibo.context.parts import Call, Format, Opaque, Part, Text, named
from kibo.context.rendering import pieces_of, tokens_of
from kibo.context.tokens import Tokenizer
from kibo.context.units import Unit


def shortened(unit: Unit, room: int, format: Format, tokenizer: Tokenizer) -> Unit | None:
    """Cuts the middle out of a unit's texts, the longest first, until it fits.

    Args:
        unit: What is too large.
        room: How many tokens it may have.
        format: In whose form.
        tokenizer: What counts them.

    Returns:
        The same entries with shorter texts; None where even names and marks alone are too many.
    """
    low, high, best = 0, max(len(entry.text) for entry in unit.entries), None
    while low <= high:
        middle = (low + high) // 2
        tried = Unit(tuple(_cut_entry(entry, middle) for entry in unit.entries))
        if tokens_of(pieces_of(tried, format), tokenizer) <= room:
            best, low = tried, middle + 1
        else:
            high = middle - 1
    return best


def _cut_entry(entry: ContextEntry, length: int) -> ContextEntry:
    if isinstance(entry, ToolCall):
        return dataclasses.replace(entry, call=_cut_call(entry.call, length))
    if isinstance(entry, Assistant):
        calls = tuple(_cut_call(call, length) for call in entry.calls)
        return dataclasses.replace(
            entry, parts=tuple(_cut_part(part, length) for part in entry.parts), calls=calls
        )
    if isinstance(entry, Said):
        return dataclasses.replace(entry, parts=tuple(_cut_part(part, length) for part in entry.parts))
    return entry


def _cut_part(part: Part, length: int) -> Part:
    if isinstance(part, Opaque):
        return part if len(canonical(part.value)) <= length or part.tokens is not None else Text(named(part))
    return Text(_cut(part.text, length))


def _cut_call(call: Call, length: int) -> Call:
    cut = _cut(call.arguments, length)
    return call if cut == call.arguments else Call(call.id, call.name, canonical({"shortened": cut}))


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    head, tail = (length + 1) // 2, length // 2
    left_out = len(text) - length
    return f"{text[:head]}\n[{left_out} characters are left out here]\n{text[len(text) - tail :]}"
