"""What passes between a box and its servers while it is recorded: heard in order, and passed on as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from kibo.box.policy import Allow
from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, Body, Fields, Interim, Request, Sender
from kibo.effects.http_head import SecretValue
from kibo.effects.notations import Table, replaced, table_of
from kibo.effects.recorded_messages import CodingError, Form, asked_question, check_whole, readable, values
from kibo.effects.recording_file import Question, Recorded, Refusal, Reply, is_bodiless
from kibo.effects.recording_writer import Copy, RecordingWriter
from kibo.effects.wires import Plain

_WEBSOCKET: Final = "WebSockets are not recorded"


class Take:
    """One request and its answer while they pass. What it is told is told in order.

    Args:
        writer: Of the recording.
        number: Its place in the order of requests.
        request: The request, as it is sent.
        table: What to take out.
    """

    def __init__(self, writer: RecordingWriter, number: int, request: Request, table: Table) -> None:
        self._writer = writer
        self._number = number
        self._request = request
        self._table = table
        self._opened = bool(request.secrets)
        self._left_out = ""
        self._asked_whole = not request.has_body
        self._ended = False
        self._asked: Copy | None = None
        self._answered: Copy | None = None
        self._answer: Answer | None = None
        self._trailers: Fields = []
        self._form = self._form_of(request.fields)
        if request.has_body:
            self._asked = Copy(writer, self._form)

    def _form_of(self, fields: Fields) -> Form:
        try:
            return Form(fields, self._table, opened=self._opened)
        except CodingError as error:
            self._left_out = str(error)
            return Form(fields, self._table, opened=False)

    def asked(self, data: bytes) -> None:
        """Told of a piece of the request's body."""
        self._feed(self._asked, data)

    def asked_all(self, trailers: Fields) -> None:
        """Told of its end."""
        self._asked_whole, self._trailers = True, trailers

    def refused(self, refusal: Refused) -> None:
        """Told that there is no answer."""
        self._end(lambda: {"refusal": Refusal(refusal.status, self._out_of(str(refusal)))})

    def dropped(self) -> None:
        """Told that nothing is to be kept of it."""
        if self._ended:
            return
        self._ended = True
        self._writer.closed(self._number)
        for copy in (self._asked, self._answered):
            if copy is not None:
                self._writer.do(copy.drop)

    def answered(self, answer: Answer) -> Answer:
        """Told of the head of an answer. Returns what to pass on in its place."""
        self._answer = answer
        if answer.upgraded is not None:
            self._left_out = _WEBSOCKET
            self._finish(whole=True)
            return answer
        if self._opened:
            try:
                check_whole(answer.status, answer.fields)
            except CodingError as error:
                self._left_out = str(error)
                self._finish(whole=True)
                return answer
        self._form = self._form_of(answer.fields)
        self._answered = Copy(self._writer, self._form)
        lengths = values(answer.fields, b"content-length")
        expected = int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else -1
        if expected == 0 or is_bodiless(self._request.method, answer.status):
            self._finish(whole=True)
            return answer
        close = answer.close

        async def closed() -> None:
            self.cut()
            await close()

        answer.body, answer.close = _Heard(self, answer.body, expected), closed
        return answer

    def heard(self, data: bytes) -> None:
        """Told of a piece of the answer's body."""
        self._feed(self._answered, data)

    def heard_all(self) -> None:
        """Told of its end: before the box can have seen it, so that what it has had is in the recording."""
        self._finish(whole=True)

    def cut(self) -> None:
        """Told that no more comes: either side has gone, or the recording ends."""
        if self._answer is None:
            self.dropped()
        else:
            self._finish(whole=False)

    async def room(self) -> None:
        """Waits where the disk is behind."""
        await self._writer.room()

    def _feed(self, copy: Copy | None, data: bytes) -> None:
        if copy is not None and not self._ended:
            self._writer.do(lambda: copy.feed(data), len(data))

    def _finish(self, *, whole: bool) -> None:
        answer = self._answer
        assert answer is not None
        trailers = list(answer.body.trailers)

        def made() -> dict[str, Any]:
            copy, form = self._answered, self._form
            if copy is None:
                return {}
            if self._left_out:
                copy.drop()
                return {}
            if copy.problem:
                return {"left_out": f"its answer was not kept: {copy.problem}"}
            bodiless = is_bodiless(self._request.method, answer.status)
            body = None if bodiless else copy.end()
            fields = form.fields(answer.fields)
            if not bodiless:
                length = b"%d" % copy.size
                fields = [
                    (n, length if n == b"content-length" else v)
                    for n, v in fields
                    if whole or n != b"content-length"
                ]
            elif form.altered:
                fields = [field for field in fields if field[0] != b"content-length"]
            reason = replaced(answer.reason, self._table)
            return {"reply": Reply(answer.status, reason, fields, form.fields(trailers), body, whole)}

        self._end(made)

    def _end(self, outcome: Callable[[], dict[str, Any]]) -> None:
        """Has the thread write it down."""
        if self._ended:
            return
        self._ended = True
        self._writer.closed(self._number)
        if not self._asked_whole:
            self._left_out = self._left_out or "it was answered before it was sent as a whole"

        def work() -> None:
            question, made = self._question(), outcome()
            if self._left_out:
                made = {"left_out": self._left_out}
            self._writer.note(Recorded(self._number, question, **made))

        self._writer.do(work)

    def _question(self) -> Question:
        request, asked = self._request, self._asked
        body = None
        if asked is not None and asked.problem:
            self._left_out = self._left_out or f"it was not kept: {asked.problem}"
        elif asked is not None:
            body = asked.end()
        return asked_question(request, self._table, self._trailers, body, opened=self._opened)

    def _out_of(self, text: str) -> str:
        return replaced(text.encode("utf-8", "replace"), self._table).decode("utf-8", "replace")


class _Asked:
    """The body of a request, of which a recording hears."""

    def __init__(self, take: Take, body: Body) -> None:
        self._take = take
        self._body = body

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._body.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces."""
        async for chunk in self._body.chunks():
            self._take.asked(chunk)
            await self._take.room()
            yield chunk
        self._take.asked_all(list(self._body.trailers))


class _Heard:
    """The body of an answer, of which a recording hears."""

    def __init__(self, take: Take, body: Body, expected: int) -> None:
        self._take = take
        self._body = body
        self._left = expected

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._body.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces."""
        async for chunk in self._body.chunks():
            self._take.heard(chunk)
            self._left -= len(chunk)
            if self._left == 0:
                self._take.heard_all()
            await self._take.room()
            yield chunk
        self._take.heard_all()


class RecordingSender:
    """Sends one box's requests as something else does, and has them recorded; see `Sender`.

    Args:
        sender: What sends them.
        writer: What records them.
        secrets: All that the box has: what any host says of any is taken out.
    """

    def __init__(self, sender: Sender, writer: RecordingWriter, secrets: Sequence[SecretValue]) -> None:
        self._sender = sender
        self._writer = writer
        self._table = table_of(secrets)

    async def send(self, request: Request, interim: Interim) -> Answer:
        """See `Sender`."""
        return await self._recorded(request, lambda asked: self._sender.send(asked, interim))

    async def send_once(
        self, request: Request, interim: Interim, leaving: Callable[[], Awaitable[None]]
    ) -> Answer:
        """See `Sender`."""
        return await self._recorded(request, lambda asked: self._sender.send_once(asked, interim, leaving))

    async def tunnel(self, rule: Allow, host: str, port: int) -> Plain:
        """See `Sender`. What goes through is closed to everybody, and not recorded."""
        return await self._sender.tunnel(rule, host, port)

    def close(self) -> None:
        """See `Sender`."""
        self._sender.close()

    async def _recorded(self, request: Request, send: Callable[[Request], Awaitable[Answer]]) -> Answer:
        asked = request = readable(request)
        take = self._writer.begin(lambda number: Take(self._writer, number, asked, self._table))
        if take is None:
            return await send(request)
        if request.has_body:
            request = replace(request, body=_Asked(take, request.body))
        try:
            answer = await send(request)
        except Refused as refusal:
            # Of what changes something nobody knows then whether it has happened: nothing to say again.
            if request.effect == "read":
                take.refused(refusal)
            else:
                take.dropped()
            raise
        except BaseException:
            take.dropped()
            raise
        return take.answered(answer)
