"""What a gateway does for one replay: answers come from a recording, and nothing is resolved, connected to or sent."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from kibo.box.policy import Allow
from kibo.effects.destinations import Refused, show
from kibo.effects.exchange import Answer, Fields, Interim, Request
from kibo.effects.matching import Matching
from kibo.effects.recorded_messages import CodingError, Form, asked_question, readable
from kibo.effects.recording_file import DIGEST_BYTES, Recorded, Reply, Stored
from kibo.effects.records import write_url
from kibo.effects.unrecorded import Unrecorded
from kibo.effects.wires import CHUNK_BYTES, Plain
from kibo.model.limits import MAX_UNRECORDED

#: Of no server: programs that try again after a 502 would do so for nothing.
NOT_RECORDED: Final = "599 Not Recorded"
_TEXT_CHARS: Final = 300


class Replay:
    """One replay, of any number of boxes; see `Sender`.

    Args:
        fd: The recording's file, which was verified; this one's from now on.
        name: What to call it in what boxes are told.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._stored = Stored.read(fd, name)
        self._matching = Matching(self._stored.index.exchanges)
        #: Requests that there was no answer to: the first of them, and how many there were.
        self.unrecorded: list[Unrecorded] = []
        self.missed = 0

    async def send(self, request: Request, interim: Interim) -> Answer:
        """Answers a request; see `Sender`.

        Raises:
            Refused: It is not in the recording, or got a page of the gateway's own there too.
        """
        request = readable(request)
        body, trailers = await self._body(request, interim)
        if request.upgrade:
            raise self._miss(request, "WebSockets are not recorded")
        found = self._matching.take(asked_question(request, {}, trailers, body, opened=bool(request.secrets)))
        if isinstance(found, str):
            raise self._miss(request, found)
        if found.refusal is not None:
            raise Refused(found.refusal.status, found.refusal.text)
        return self._answer(found)

    async def send_once(
        self, request: Request, interim: Interim, leaving: Callable[[], Awaitable[None]]
    ) -> Answer:
        """As `send`: nothing leaves."""
        return await self.send(request, interim)

    async def tunnel(self, rule: Allow, host: str, port: int) -> Plain:
        """Refuses; see `Sender`."""
        why = "what goes through a tunnel that is left closed is not recorded"
        raise self._refusal("CONNECT", show(host, port), why)

    def close(self) -> None:
        """The recording stays open: other boxes may replay it."""

    def end(self) -> None:
        """Closes the recording."""
        os.close(self._fd)
        self._fd = -1

    async def _body(self, request: Request, interim: Interim) -> tuple[bytes | None, Fields]:
        """Reads the body of a request; returns its digest, and what came after it."""
        if not request.has_body:
            return None, []
        if any(name == b"expect" for name, _ in request.fields):
            await interim(100, [])
        hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
        try:
            form = Form(request.fields, {}, opened=bool(request.secrets))
            async for chunk in request.body.chunks():
                for piece in form.feed(chunk):
                    hasher.update(piece)
            hasher.update(form.end())
        except CodingError as error:
            raise self._miss(request, f"its body cannot be compared: {error}") from None
        return hasher.digest(), list(request.body.trailers)

    def _answer(self, found: Recorded) -> Answer:
        reply = found.reply
        assert reply is not None

        async def close() -> None:
            """Nothing is open."""

        return Answer(reply.status, reply.reason, list(reply.fields), _Replayed(self._stored, reply), close)

    def _miss(self, request: Request, why: str) -> Refused:
        url = write_url(request.secure, request.host, request.port, request.target)
        return self._refusal(request.method.decode("latin-1"), url, why)

    def _refusal(self, method: str, url: str, why: str) -> Refused:
        told = Unrecorded(method[:_TEXT_CHARS], url[:_TEXT_CHARS], why[: 2 * _TEXT_CHARS])
        self.missed += 1
        if len(self.unrecorded) < MAX_UNRECORDED:
            self.unrecorded.append(told)
        return Refused(
            NOT_RECORDED,
            f"this box replays the recording {self._name}, which has no answer to {told.method} {told.url}: "
            f"{told.why}. Nothing was sent.",
        )


class _Replayed:
    """The body of a recorded answer, read as it is wanted."""

    def __init__(self, stored: Stored, reply: Reply) -> None:
        self._stored = stored
        self._reply = reply

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._reply.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces.

        Raises:
            OSError: The recording has no more: it broke off there, too.
        """
        reply, at = self._reply, 0
        if reply.body is not None:
            while piece := await asyncio.to_thread(self._stored.piece, reply.body, at, CHUNK_BYTES):
                yield piece
                at += len(piece)
        if not reply.whole:
            raise ConnectionResetError("the answer broke off here when it was recorded")
