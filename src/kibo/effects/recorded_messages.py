"""What of a message goes into a recording, and by what a request is found in one. Pure.

The values of secrets are taken out, of bodies that were compressed by hosts that may know one also; those stay
unpacked. A multipart body gets the same boundary each time, where clients make one up. A replay does the same with what
it is asked for, so that both can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from kibo.effects.decoding import CodingError, Decoder, decoder, unpackable
from kibo.effects.exchange import Fields, Request
from kibo.effects.http_head import plain_name
from kibo.effects.notations import Replacing, Table, replaced
from kibo.effects.recording_file import Question

__all__ = ["CodingError", "Form", "asked_question", "check_whole", "readable", "values"]

_BOUNDARY: Final = re.compile(
    rb'(?i)^multipart/[^;]+;.*\bboundary="?([0-9A-Za-z\'()+_,./:=? -]{8,70}?)"?\s*(?:;|$)'
)
_PLAIN_BOUNDARY: Final = b"kibo-boundary"
#: What asks for a part: the standard's, and what Apache and Azure take for it.
_RANGES: Final = frozenset({b"range", b"if-range", b"request-range", b"x-ms-range"})
_PARTIAL: Final = 206


class Form:
    """How the body of one message is recorded.

    Args:
        fields: Those of the message.
        table: What to take out of it.
        opened: Whether to unpack it, where it was compressed.

    Raises:
        CodingError: It would have to be unpacked, and cannot be.
    """

    def __init__(self, fields: Fields, table: Table, *, opened: bool) -> None:
        self._decoder: Decoder | None = (
            decoder(b",".join(values(fields, b"content-encoding"))) if opened else None
        )
        self._table = dict(table)
        kinds = values(fields, b"content-type")
        boundary = _BOUNDARY.match(kinds[0]) if len(kinds) == 1 else None
        if boundary is not None:
            self._table[boundary[1]] = _PLAIN_BOUNDARY
        self._replacing = Replacing(self._table) if self._table else None

    @property
    def altered(self) -> bool:
        """Whether its length may be another."""
        return self._decoder is not None or self._replacing is not None

    def fields(self, fields: Fields) -> Fields:
        """Writes the fields as they are recorded."""
        return [
            (replaced(name, self._table), replaced(value, self._table))
            for name, value in fields
            if self._decoder is None or name != b"content-encoding"
        ]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes a piece of the body; gives what is recorded.

        Raises:
            CodingError: It cannot be unpacked.
        """
        pieces = iter((data,)) if self._decoder is None else self._decoder.feed(data)
        if self._replacing is None:
            yield from pieces
            return
        for piece in pieces:
            yield self._replacing.feed(piece)

    def end(self) -> bytes:
        """Gives the rest."""
        return b"" if self._replacing is None else self._replacing.end()


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Lists the values of the fields of a name."""
    return [value for each, value in fields if each == name]


def readable(request: Request) -> Request:
    """Returns a request with what it accepts cut down to what can be looked into, where its host may know a secret.

    That is what can be unpacked, and no ranges: of two parts of a value neither is one. A server may leave them out of
    account, and its clients take the whole (RFC 9110, section 14.2).
    """
    if not request.secrets:
        return request
    return replace(
        request,
        fields=[
            (name, unpackable(value) if name == b"accept-encoding" else value)
            for name, value in request.fields
            if plain_name(name) not in _RANGES
        ],
    )


def check_whole(status: int, fields: Fields) -> None:
    """Sees that an answer is no part of something, which a server may give without having been asked by `Range`.

    Raises:
        CodingError: It is.
    """
    if status == _PARTIAL or (200 <= status < 300 and values(fields, b"content-range")):
        raise CodingError("it is a part of something, and a value may be cut where it begins or ends")


def asked_question(
    request: Request, table: Table, trailers: Fields, body: bytes | None, *, opened: bool
) -> Question:
    """Writes a request as recordings have it."""
    try:
        form = Form(request.fields, table, opened=opened)
    except CodingError:
        form = Form(request.fields, table, opened=False)
    return Question(
        request.secure,
        request.host,
        request.port,
        request.method,
        replaced(request.target, table),
        form.fields(request.fields),
        form.fields(trailers),
        request.effect,
        body,
    )
