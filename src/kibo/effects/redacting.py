"""Takes the values of secrets out of what servers answer, before a box, the ledger or anybody else sees it.

A host that may know a secret may also repeat it: in an error page, in a redirect, on the page where it is managed. Its
answers are unpacked where they were compressed, and each notation of each value is its placeholder again. What cannot
be looked into does not pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from kibo.box.policy import Allow
from kibo.effects.decoding import CodingError, Decoder, decoder
from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, Body, Fields, Interim, Request, Sender
from kibo.effects.http_head import SecretValue
from kibo.effects.link import BAD_GATEWAY
from kibo.effects.notations import Overwriting, Replacing, Table, replaced, table_of
from kibo.effects.recorded_messages import check_whole, readable, values
from kibo.effects.recording_file import is_bodiless
from kibo.effects.websocket import RedactedWire
from kibo.effects.wires import Plain

#: What would have the frames of a WebSocket compressed (RFC 7692).
_EXTENSIONS: Final = b"sec-websocket-extensions"
#: An answer's body of which all is read before any of it passes.
SHORT_BYTES: Final = 64 * 1024
#: Says in a head why its body breaks off.
_WITHHELD: Final = b"kibo-withheld"


class Redacting:
    """Sends requests as something else does, and takes values of secrets out of the answers; see `Sender`.

    A request says which secrets its host may know. The answers of other hosts pass untouched.

    Args:
        sender: What sends them.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        #: By the secrets: those of each host that has some.
        self._tables: dict[tuple[SecretValue, ...], Table] = {}

    async def send(self, request: Request, interim: Interim) -> Answer:
        """See `Sender`.

        Raises:
            Refused: Also where the answer cannot be looked into.
        """
        table = self._table(request.secrets)
        try:
            answer = await self._sender.send(_visible(request), _without(table, interim))
        except Refused as refusal:
            raise _said_again(refusal, table) from None
        try:
            return await _redacted(request, answer, table)
        except CodingError as error:
            await answer.close()
            raise Refused(BAD_GATEWAY, _unseen(request, error)) from None

    async def send_once(
        self, request: Request, interim: Interim, leaving: Callable[[], Awaitable[None]]
    ) -> Answer:
        """See `Sender`. The head of an answer that cannot be looked into passes, as it tells what has happened; its
        body breaks off.
        """
        table = self._table(request.secrets)
        try:
            answer = await self._sender.send_once(_visible(request), _without(table, interim), leaving)
        except Refused as refusal:
            raise _said_again(refusal, table) from None
        try:
            return await _redacted(request, answer, table)
        except CodingError as error:
            why = _unseen(request, error)
            fields = _left(_cleaned(answer.fields, table), b"content-length")
            fields.append((_WITHHELD, why.encode("ascii", "replace")))
            return replace(answer, fields=fields, reason=replaced(answer.reason, table), body=_Withheld(why))

    async def tunnel(self, rule: Allow, host: str, port: int) -> Plain:
        """See `Sender`. No value is put into what goes through, so that none can come back."""
        return await self._sender.tunnel(rule, host, port)

    def close(self) -> None:
        """See `Sender`."""
        self._sender.close()

    def _table(self, secrets: Sequence[SecretValue]) -> Table:
        known = tuple(secrets)
        if known not in self._tables:
            self._tables[known] = table_of(known)
        return self._tables[known]


def _visible(request: Request) -> Request:
    """Returns a request whose answer can be looked into."""
    request = readable(request)
    if request.secrets and request.upgrade:
        request.fields = _left(request.fields, _EXTENSIONS)
    return request


def _without(table: Table, interim: Interim) -> Interim:
    async def hear(status: int, fields: Fields) -> None:
        await interim(status, _cleaned(fields, table))

    return hear if table else interim


def _said_again(refusal: Refused, table: Table) -> Refused:
    """Writes a refusal, which may quote what a server has said, without values."""
    text = replaced(str(refusal).encode("utf-8", "replace"), table).decode("utf-8", "replace")
    return Refused(refusal.status, text, refusal.errno)


async def _redacted(request: Request, answer: Answer, table: Table) -> Answer:
    """Takes values out of an answer; what else hears of that one has it as it came.

    Raises:
        CodingError: It cannot be looked into. It is still open.
        OSError: It broke off.
    """
    if not table:
        return answer
    check_whole(answer.status, answer.fields)
    clean = replace(answer, fields=_cleaned(answer.fields, table), reason=replaced(answer.reason, table))
    if answer.upgraded is not None:
        clean.upgraded = RedactedWire(answer.upgraded, table, request.secrets)
        return clean
    lengths = values(answer.fields, b"content-length")
    if is_bodiless(request.method, answer.status):
        # A HEAD's length is that of a body which has another once it is unpacked.
        clean.fields = _left(clean.fields, b"content-length")
        return clean
    if lengths == [b"0"]:
        return clean
    opened = decoder(b",".join(values(answer.fields, b"content-encoding")), None)
    sized = len(lengths) == 1 and lengths[0].isdigit()
    if sized and opened is None and int(lengths[0]) > SHORT_BYTES:
        # What is long and says its length is mostly a file: who takes it looks how far it is, and whether all came.
        clean.body = Redacted(answer.body, opened, Overwriting(table))
        return clean
    clean.fields = _left(clean.fields, b"content-length", b"content-encoding")
    clean.body = body = Redacted(answer.body, opened, Replacing(table))
    if sized and int(lengths[0]) <= SHORT_BYTES:
        # What is short keeps a length: the ledger has such answers whole before anybody sees them.
        try:
            whole = await body.gather(SHORT_BYTES)
        except CodingError:
            raise
        except BaseException:
            await answer.close()
            raise
        if whole:
            clean.fields.append((b"content-length", b"%d" % len(body.first)))
    return clean


def _left(fields: Fields, *names: bytes) -> Fields:
    return [field for field in fields if field[0] not in names]


def _cleaned(fields: Fields, table: Table) -> Fields:
    return [(replaced(name, table), replaced(value, table)) for name, value in fields]


def _unseen(request: Request, error: CodingError) -> str:
    return (
        f"{request.host} may know the value of a secret, and its answer cannot be looked into: {error}. Declare the "
        "secret for the hosts alone that need it, or have the server send what it is asked for."
    )


class Redacted:
    """The body of an answer without values of secrets.

    Args:
        body: The answer's.
        opened: Unpacks it, where it was packed.
        replacing: Takes them out.
    """

    def __init__(self, body: Body, opened: Decoder | None, replacing: Replacing) -> None:
        self._body = body
        self._opened = opened
        self._replacing = replacing
        self._pieces = self._read()
        #: What has been read ahead.
        self.first = b""

    @property
    def trailers(self) -> Fields:
        """Without values."""
        return _cleaned(self._body.trailers, self._replacing.table)

    async def gather(self, most: int) -> bool:
        """Reads ahead. Returns whether that is all of it, which it is not where it has more than `most` bytes.

        Raises:
            CodingError: It cannot be unpacked.
            OSError: It broke off.
        """
        data = bytearray()
        async for piece in self._pieces:
            data += piece
            if len(data) > most:
                break
        self.first = bytes(data)
        return len(data) <= most

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces.

        Raises:
            OSError: It broke off, or cannot be unpacked.
        """
        if self.first:
            yield self.first
        try:
            async for piece in self._pieces:
                yield piece
        except CodingError as error:
            raise ConnectionResetError(str(error)) from None

    async def _read(self) -> AsyncIterator[bytes]:
        replacing, opened = self._replacing, self._opened
        async for chunk in self._body.chunks():
            for piece in (chunk,) if opened is None else opened.feed(chunk):
                if clean := replacing.feed(piece):
                    yield clean
        if opened is not None and not opened.whole:
            raise CodingError("it ends before what is packed in it does")
        if clean := replacing.end():
            yield clean


class _Withheld:
    """The body of an answer that does not pass."""

    trailers: Fields = []

    def __init__(self, why: str) -> None:
        self._why = why

    async def chunks(self) -> AsyncIterator[bytes]:
        """Breaks off."""
        raise ConnectionResetError(self._why)
        yield b""  # what makes it an iterator
