"""The ways in which the value of a secret may be written, and its placeholder in their stead, piece by piece. Pure."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote_from_bytes

from kibo.effects.http_head import SecretValue

#: What stands for what: each notation of each value, and its placeholder.
Table = Mapping[bytes, bytes]
_OVER: Final = b"*"
#: Characters of Base64 that say too little to be taken for a secret's.
_LEAST_BASE64: Final = 6
#: What the encoders of URLs leave as it is, besides letters, digits and ``_.-~``: RFC 3986, JavaScript, paths.
_LEFT: Final = ("", "!'()*", "/", "/:@!$&'()*+,;=")


def notations(value: str) -> set[bytes]:
    """Lists the ways in which a value may be written: as it is, in URLs and forms, in JSON, in HTML, and in Base64,
    wherever in what was encoded it began.
    """
    raw = value.encode("utf-8", "surrogateescape")
    written = {raw, json.dumps(value)[1:-1].encode()}
    written.add(json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape"))
    written |= {text.replace(b"/", rb"\/") for text in set(written)}
    for left in _LEFT:
        upper = quote_from_bytes(raw, safe=left).encode()
        lower = re.sub(rb"%..", lambda found: found[0].lower(), upper)
        written |= {each.replace(b"%20", space) for each in (upper, lower) for space in (b"%20", b"+")}
    for escaped in (html.escape(value), html.escape(value, quote=False)):
        written.add(escaped.encode("utf-8", "surrogateescape"))
        written.add(escaped.replace("&#x27;", "&#39;").encode("utf-8", "surrogateescape"))
    for before in range(3):
        bits = 8 * (before + len(raw))
        # Only the characters that nothing before or after the value has a part in.
        inner = slice(-(-8 * before // 6), bits // 6)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + raw)[inner]
            if len(text) >= _LEAST_BASE64:
                written.add(text)
    return written - {b""}


def table_of(secrets: Iterable[SecretValue]) -> dict[bytes, bytes]:
    """Lists what is to be taken out, and what to put there."""
    return {each: s.placeholder.encode() for s in secrets for each in notations(s.value)}


class Replacing:
    """Replaces what may stand anywhere in a stream, also where it is cut into pieces.

    Between pieces it keeps what a notation may have begun with, and nothing else: whoever reads an answer as it comes
    waits for no more than the server lets them wait for.

    Args:
        table: What stands for what. Where two begin at one place, the longer counts.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._keep = max(map(len, table), default=1) - 1
        self._firsts = frozenset(each[0] for each in table)
        self._rest = b""

    @property
    def waiting(self) -> bytes:
        """What a notation may have begun with."""
        return self._rest

    def feed(self, data: bytes) -> bytes:
        """Takes a piece; gives what can be said of it already."""
        data = self._rest + data
        return self._replace(data, self._open(data))

    def end(self) -> bytes:
        """Gives the rest."""
        return self._replace(self._rest, len(self._rest))

    def _open(self, data: bytes) -> int:
        """Returns where the first begins that the next piece may complete."""
        for at in range(max(0, len(data) - self._keep), len(data)):
            if data[at] in self._firsts:
                begun = data[at:]
                if any(len(each) > len(begun) and each.startswith(begun) for each in self.table):
                    return at
        return len(data)

    def _replace(self, data: bytes, limit: int) -> bytes:
        """Replaces what begins before a limit: all of it is here, so that nothing longer can begin there."""
        present = [each for each in self.table if each in data]
        pieces, at = [], 0
        if present:
            longest_first = sorted(present, key=len, reverse=True)
            for found in re.finditer(b"|".join(map(re.escape, longest_first)), data):
                if found.start() >= limit:
                    break
                pieces += [data[at : found.start()], self.table[found[0]]]
                at = found.end()
        if at < limit:
            pieces.append(data[at:limit])
            at = limit
        self._rest = data[at:]
        return b"".join(pieces)


class Overwriting(Replacing):
    """As `Replacing`, with as many asterisks for each notation: what has a length keeps it.

    Each byte of each is overwritten, also where two overlap: what becomes of a byte does not depend on where reading
    has begun.
    """

    _covered = 0  # of what waits, from its beginning

    def _replace(self, data: bytes, limit: int) -> bytes:
        clean, until = bytearray(data[:limit]), self._covered
        clean[:until] = _OVER * min(until, limit)
        for each in self.table:
            at = data.find(each)
            while 0 <= at < limit:
                end = at + len(each)
                clean[at:end] = _OVER * (min(end, limit) - at)
                until = max(until, end)
                at = data.find(each, at + 1)
        self._covered, self._rest = max(0, until - limit), data[limit:]
        return bytes(clean)


def replaced(data: bytes, table: Table) -> bytes:
    """As `Replacing`, for what is here as a whole."""
    if not table:
        return data
    replacing = Replacing(table)
    return replacing.feed(data) + replacing.end()
