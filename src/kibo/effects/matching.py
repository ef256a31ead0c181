"""Which answer of a recording a request gets. Pure.

Two requests are equal where method, URL, content type and body are, the fields by which one asks for a part or under a
condition, and those that the recorded answer says it depends on (`Vary`; RFC 9110, section 12.5.5). The nth of equal
requests gets the nth answer. After the last, one that only reads gets the last again, and one that changes
something gets none: it would happen a second time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kibo.effects.http_head import OVERRIDES
from kibo.effects.recorded_messages import values
from kibo.effects.recording_file import Question, Recorded

#: Requests of one host that are looked at for the closest: what is told helps, and is not worth a second.
_LOOKED_AT: Final = 2_000
_SHOWN: Final = 200
#: Fields without which a request is another one, whatever answers say (RFC 9110, sections 13.1 and 14.2).
_TELLING: Final = (
    b"range",
    b"if-range",
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    *OVERRIDES,
)
_KIND: Final = b"content-type"
Key = tuple[Any, ...]


class Matching:
    """The answers of a recording while they are given.

    Args:
        exchanges: What was recorded, in order.
    """

    def __init__(self, exchanges: Iterable[Recorded]) -> None:
        #: By what requests are equal in, and then by the fields that their answers depend on.
        self._equal: dict[Key, dict[Key, _Row]] = defaultdict(lambda: defaultdict(_Row))
        self._of_host: dict[str, list[Recorded]] = defaultdict(list)
        for each in exchanges:
            varying = tuple((name, *values(each.question.fields, name)) for name in _varying(each))
            self._equal[_key(each.question)][varying].recorded.append(each)
            self._of_host[each.question.host].append(each)

    def take(self, asked: Question) -> Recorded | str:
        """Gives the answer to a request, and counts it as given; or says why there is none. The same for any number."""
        equal = self._equal.get(_key(asked), {})
        fitting = [
            row
            for varying, row in equal.items()
            if all(values(asked.fields, name) == [*wanted] for name, *wanted in varying)
        ]
        if not fitting:
            return self._closest(asked, [row.recorded[-1] for row in equal.values()])
        fresh = [row for row in fitting if row.given < len(row.recorded)]
        if not fresh and asked.effect != "read":
            count = sum(len(row.recorded) for row in fitting)
            times = f"{count} time{'s' * (count > 1)}"
            return f"it was recorded {times}, and each answer was given once: it changes something, and is not repeated"
        if fresh:
            row = min(fresh, key=lambda each: each.recorded[each.given].number)
            found = row.recorded[row.given]
            row.given += 1
        else:
            found = max((row.recorded[-1] for row in fitting), key=lambda each: each.number)
        return f"it was recorded without its answer: {found.left_out}" if found.left_out else found

    def _closest(self, asked: Question, equal: Sequence[Recorded]) -> str:
        near = equal or self._of_host.get(asked.host, [])[:_LOOKED_AT]
        if not near:
            return f"it has none to {_shown(asked.host)}"
        found = max((each.question for each in near), key=lambda each: _nearness(each, asked))
        which = f"{_text(found.method)} {_shown(found.url)}"
        differing = _differences(found, asked)
        if not differing:
            each = next(each for each in equal if each.question is found)
            differing = [
                _difference(found, asked, name) for name in _varying(each) if _differ(found, asked, name)
            ]
        return f"the closest that it has is {which}: {'; '.join(differing)}"


class _Row:
    """Answers to requests that are equal in everything."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.given = 0


def _key(asked: Question) -> Key:
    kind = values(asked.fields, _KIND) if asked.body is not None else []
    telling = [field for field in asked.fields if field[0] in _TELLING]
    return (
        *(asked.secure, asked.host, asked.port, asked.method, asked.target, asked.body),
        *(tuple(kind), tuple(sorted(telling))),
    )


def _varying(recorded: Recorded) -> list[bytes]:
    """Lists the fields that an answer depends on."""
    if recorded.reply is None:
        return []
    named = b",".join(values(recorded.reply.fields, b"vary")).lower().split(b",")
    return sorted({name.strip() for name in named} - {b"", b"*"})


def _nearness(recorded: Question, asked: Question) -> tuple[int, ...]:
    there, here = recorded.target.partition(b"?"), asked.target.partition(b"?")
    common = next(
        (at for at, pair in enumerate(zip(there[0], here[0], strict=False)) if pair[0] != pair[1]), 10**6
    )
    return (
        (recorded.port, recorded.secure) == (asked.port, asked.secure),
        there[0] == here[0],
        recorded.method == asked.method,
        there[2] == here[2],
        recorded.body == asked.body,
        common,
    )


def _differences(recorded: Question, asked: Question) -> list[str]:
    found = []
    if recorded.url != asked.url:
        found.append("the URL is another")
    if recorded.method != asked.method:
        found.append("the method is another")
    names = _TELLING if None in (recorded.body, asked.body) else (_KIND, *_TELLING)
    found += [_difference(recorded, asked, name) for name in names if _differ(recorded, asked, name)]
    if recorded.body != asked.body:
        found.append(f"the body is {_named(asked.body)} here and {_named(recorded.body)} there")
    return found


def _differ(recorded: Question, asked: Question, name: bytes) -> bool:
    return values(recorded.fields, name) != values(asked.fields, name)


def _difference(recorded: Question, asked: Question, name: bytes) -> str:
    return f"{_text(name)} is {_quoted(asked, name)} here and {_quoted(recorded, name)} there"


def _named(body: bytes | None) -> str:
    return "none" if body is None else f"b2:{body.hex()[:12]}"


def _quoted(asked: Question, name: bytes) -> str:
    found = values(asked.fields, name)
    return repr(_text(b", ".join(found))[:_SHOWN]) if found else "absent"


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
