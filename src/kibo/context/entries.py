"""Entries of a context, as frozen values, and how the log holds them.

Each is an entry of the store's log whose kind is ``context.`` and a word, and whose body is JSON with the entry's id.
The id stays with it through forks, commits and merges; its number along the lineage may change where a merge brings it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from kibo.context.canonical import checked_json, checked_text
from kibo.context.parts import FORMATS, Call, Opaque, Part, Text, text_of
from kibo.model.errors import ContextInvalid, StoreDamaged
from kibo.model.ids import BranchId, EntryId
from kibo.store.log import Entry as LogEntry

#: What every kind of a context's entries begins with.
KIND: Final = "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextEntry:
    """What all entries have.

    Attributes:
        id: Its name, in every branch that sees it.
        seq: Its number along the lineage that it was read from.
        at_s: When it was written, in seconds since 1970.
        origin: The branch that it was written in, where a merge brought it here; else None.
    """

    word: ClassVar[str] = ""
    id: EntryId
    seq: int = 0
    at_s: float = 0.0
    origin: BranchId | None = None

    @property
    def text(self) -> str:
        """What it says."""
        return ""

    def body(self) -> dict[str, Any]:
        """Returns what the log holds of it."""
        return {"id": self.id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said(ContextEntry):
    """What entries have that are made of parts.

    Attributes:
        parts: In order.
    """

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """What it says; parts that are no text are named."""
        return text_of(self.parts)

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        return {"id": self.id, "parts": [_written(part) for part in self.parts]}


class System(Said):
    """Instructions; every prompt has all of them."""

    __slots__ = ()
    word = "system"


class User(Said):
    """What a user said."""

    __slots__ = ()
    word = "user"


class Note(Said):
    """A remark for whoever goes on, shown to a model where it stands."""

    __slots__ = ()
    word = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistant(Said):
    """What a model said, and the tools that it called with it."""

    word: ClassVar[str] = "assistant"
    calls: tuple[Call, ...] = ()

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        return {**Said.body(self), "calls": [_call(each) for each in self.calls]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(ContextEntry):
    """A tool that a model called."""

    word: ClassVar[str] = "tool_call"
    call: Call

    @property
    def text(self) -> str:
        """The tool and its arguments."""
        return f"{self.call.name} {self.call.arguments}"

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        return {"id": self.id, "call": _call(self.call)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(Said):
    """What a tool answered."""

    word: ClassVar[str] = "tool_result"
    call_id: str
    error: bool = False

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        return {**Said.body(self), "call": self.call_id, "error": self.error}


@dataclass(frozen=True, slots=True)
class Covered:
    """What a summary stands for: the entries of a stretch of the log that prompts show, in order.

    Attributes:
        first: The first of them.
        last: The last of them.
        through: The number of the last, along the lineage in which the summary was written.
        count: How many there are, those under the summary before it included.
    """

    first: EntryId
    last: EntryId
    through: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Said):
    """What earlier entries say, in fewer words. They stay readable; prompts show the summary in their place."""

    word: ClassVar[str] = "summary"
    covers: Covered

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        return {**Said.body(self), "covers": dataclasses.asdict(self.covers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Said):
    """Something to know later. Memories are added only: one that is wrong is superseded by another.

    Attributes:
        source: The entry that it comes from.
        supersedes: The memory that it takes the place of.
        branch: The branch that learned it.
    """

    word: ClassVar[str] = "memory"
    source: EntryId | None = None
    supersedes: EntryId | None = None
    branch: BranchId | None = None

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        links = {"source": self.source, "supersedes": self.supersedes, "branch": self.branch}
        return {**Said.body(self), **{name: value for name, value in links.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(ContextEntry):
    """Says that prompts always have an entry, and holds it: with its call and results, where it belongs to a call.

    Attributes:
        entry: What was pinned.
        held: What prompts then have, in order.
    """

    word: ClassVar[str] = "pin"
    entry: EntryId
    held: tuple[ContextEntry, ...]

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        held = [{"kind": each.word, "seq": each.seq, "body": each.body()} for each in self.held]
        return {"id": self.id, "entry": self.entry, "held": held}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpin(ContextEntry):
    """Says that prompts need not have an entry any more."""

    word: ClassVar[str] = "unpin"
    entry: EntryId

    def body(self) -> dict[str, Any]:
        """See `ContextEntry.body`."""
        return {"id": self.id, "entry": self.entry}


def kind_of(cls: type[ContextEntry]) -> str:
    """Returns what the log calls entries of a class."""
    return f"{KIND}.{cls.word}"


def is_context(kind: str) -> bool:
    """Tells whether an entry of the log is of a context."""
    return kind.startswith(f"{KIND}.")


def read(entry: LogEntry) -> ContextEntry | None:
    """Makes an entry of what the log holds; None of a kind that this version does not know.

    Raises:
        StoreDamaged: The body is not what it must be.
    """
    word = entry.kind.partition(".")[2]
    cls = _CLASSES.get(word)
    if cls is None:
        return None
    try:
        return _made(word, entry.value, entry.seq, entry.at_s, entry.origin)
    except (KeyError, TypeError, ValueError, ContextInvalid) as error:
        raise StoreDamaged(
            f"entry {entry.seq} at position {entry.position} is no {entry.kind}: {error!r}",
            details={"table": "entries", "column": "body", "row": {"position": entry.position}},
        ) from error


def from_json(
    word: str, body: Any, seq: int = 0, at_s: float = 0.0, origin: str | None = None
) -> ContextEntry:
    """Makes an entry of its word and its body.

    Raises:
        ValueError, KeyError, TypeError, ContextInvalid: They are none.
    """
    return _made(word, body, seq, at_s, origin)


def _made(word: str, body: Any, seq: int, at_s: float, origin: str | None) -> ContextEntry:
    head: dict[str, Any] = {
        "id": EntryId.parse(_text(body["id"])),
        "seq": seq,
        "at_s": at_s,
        "origin": None if origin is None else BranchId(origin),
    }
    return _CLASSES[word](**head, **_FIELDS[word](body))


def _said(body: Any) -> dict[str, Any]:
    return {"parts": tuple(_read_part(each) for each in _list(body["parts"]))}


def _read_part(value: Any) -> Part:
    if isinstance(value, str):
        return Text(_text(value))
    format, held, tokens = value["format"], value["value"], value.get("tokens")
    if format not in FORMATS or not isinstance(held, dict) or not (tokens is None or type(tokens) is int):
        raise ValueError("a part that is none")
    return Opaque(format, checked_json(held, "a part"), tokens)


def _written(part: Part) -> Any:
    if isinstance(part, Text):
        return part.text
    tokens = {} if part.tokens is None else {"tokens": part.tokens}
    return {"format": part.format, "value": part.value, **tokens}


def _call(call: Call) -> dict[str, str]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def _read_call(value: Any) -> Call:
    return Call(_text(value["id"]), _text(value["name"]), _text(value["arguments"]))


def _covers(value: Any) -> Covered:
    first, last = EntryId.parse(_text(value["first"])), EntryId.parse(_text(value["last"]))
    return Covered(first, last, _number(value["through"]), _number(value["count"]))


def _link(body: Any, name: str) -> EntryId | None:
    return None if body.get(name) is None else EntryId.parse(_text(body[name]))


def _memory(body: Any) -> dict[str, Any]:
    branch = body.get("branch")
    links: dict[str, Any] = {name: _link(body, name) for name in ("source", "supersedes")}
    return {**_said(body), **links, "branch": None if branch is None else BranchId.parse(_text(branch))}


def _pin(body: Any) -> dict[str, Any]:
    held = tuple(_held(each) for each in _list(body["held"]))
    return {"entry": EntryId.parse(_text(body["entry"])), "held": held}


def _held(value: Any) -> ContextEntry:
    if value["kind"] in (Pin.word, Unpin.word):
        raise ValueError("a pin holds a pin")
    return _made(_text(value["kind"]), value["body"], _number(value["seq"]), 0.0, None)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} for text")
    return checked_text(value, "a text")


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r} for a number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} for true or false")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} for a list")
    return value


_CLASSES: Final[Mapping[str, type[ContextEntry]]] = {
    cls.word: cls
    for cls in (System, User, Assistant, ToolCall, ToolResult, Note, Summary, Memory, Pin, Unpin)
}
#: What each class has besides what all have, read from a body.
_FIELDS: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    System.word: _said,
    User.word: _said,
    Note.word: _said,
    Assistant.word: lambda body: {**_said(body), "calls": tuple(map(_read_call, _list(body["calls"])))},
    ToolCall.word: lambda body: {"call": _read_call(body["call"])},
    ToolResult.word: lambda body: {
        **_said(body),
        "call_id": _text(body["call"]),
        "error": _flag(body["error"]),
    },
    Summary.word: lambda body: {**_said(body), "covers": _covers(body["covers"])},
    Memory.word: _memory,
    Pin.word: _pin,
    Unpin.word: lambda body: {"entry": EntryId.parse(_text(body["entry"]))},
}

EntryT = TypeVar("EntryT", bound=ContextEntry)


def placed(entry: EntryT, seq: int, at_s: float) -> EntryT:
    """Returns an entry as it is once the log has it."""
    return dataclasses.replace(entry, seq=seq, at_s=at_s)
