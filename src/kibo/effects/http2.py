"""One HTTP/2 connection, whichever side of it we are: its streams, each with back-pressure both ways (RFC 9113).

`h2` knows the protocol, and `http2_frames` counts what comes before it does. Of a stream that nobody takes anything
from, no more waits here than its window; of one whose other side takes nothing, one piece. The window of the whole
connection is as large as those of all streams together, so that one that waits holds up no other.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from kibo.effects.exchange import Fields
from kibo.effects.http2_frames import ENHANCE_YOUR_CALM, MAX_FRAME_BYTES, NO_ERROR, Frames, FramesError
from kibo.effects.http2_stream import IDLE_S, ResetError, Stream
from kibo.effects.wires import Wire

#: Streams of one connection at a time: what clients take for granted before they are told.
MAX_STREAMS: Final = 100
MAX_HEADER_LIST_BYTES: Final = 64 * 1024
#: What an encoder remembers of fields; the other side may allow more, and would have us hold and search that.
TABLE_BYTES: Final = 4096
KNOWN_SETTINGS: Final = frozenset(map(int, SettingCodes))
#: The start of a connection, and what has begun and takes no time to say.
PARTIAL_S: Final = 30.0
LAST_WORD_S: Final = 2.0
#: What is sent without waiting for what may follow at once: a record of TLS.
SOON_BYTES: Final = 16 * 1024


class _Protocol(H2Connection):
    #: How many streams it remembers the end of: frames that were under way then are no offence.
    MAX_CLOSED_STREAMS = 1000


class Connection:
    """One connection.

    Args:
        wire: What it is on.
        client: Whether we open streams.
        window_bytes: What may wait here of each stream.
        idle_s: How long it is kept without a stream.
    """

    def __init__(self, wire: Wire, *, client: bool, window_bytes: int, idle_s: float) -> None:
        self.streams: dict[int, Stream] = {}
        #: Called with each stream that the other side opens, and its head; whether its body is there already.
        self.opened: Callable[[Stream, Fields], None] | None = None
        #: What the other side did that nobody does; empty where it did nothing.
        self.offence = ""
        self._wire = wire
        self._idle_s = idle_s
        self._client = client
        self._over = False
        self._retiring = False
        self._patience: asyncio.Timeout | None = None
        self._unsent = 0
        self._soon: asyncio.Handle | None = None
        self._pushing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(self._loop.time(), preface=not client)
        self._http = _Protocol(H2Configuration(client_side=client, header_encoding=None))
        wanted = {
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: window_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
        }
        self._http.local_settings = Settings(client=client, initial_values=wanted)
        if client:
            # Of servers' alone (RFC 8441), some of which end a connection on which they hear it.
            del self._http.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        self._http.initiate_connection()
        self._http.increment_flow_control_window(MAX_STREAMS * window_bytes)

    async def run(self) -> None:
        """Reads until the connection ends, whichever way; then every stream has ended, too."""
        ending = "the connection ended"
        try:
            try:
                await self._read()
            finally:
                self._patience = None
        except FramesError as error:
            ending = self.offence = str(error)
            await self._say_end(error.code, ending)
        except ProtocolError as error:
            ending = self.offence = f"it breaks the rules of HTTP/2: {error}"
            await self._say_end(error.error_code, ending)
        except TimeoutError:
            await self._say_end(NO_ERROR, "")
        except OSError as error:
            ending = str(error)
        finally:
            self._over = True
            for pending in (self._soon, self._pushing):
                if pending is not None:
                    pending.cancel()
            for stream in list(self.streams.values()):
                stream.break_off(ResetError(ending))

    async def _read(self) -> None:
        async with asyncio.timeout(PARTIAL_S) as patience:
            self._patience = patience
            await self.flush()
            while not self._finished and (data := await self._wire.receive()):
                for piece in self._frames.feed(data, self._loop.time()):
                    for event in self._http.receive_data(piece):
                        self._hear(event)
                    await self.flush()
                    await asyncio.sleep(0)
                self._hear_end()
                self._be_patient()

    @property
    def usable(self) -> bool:
        """Whether a stream can be opened."""
        most = min(MAX_STREAMS, self._http.remote_settings.max_concurrent_streams)
        ending = self._over or self._retiring or self._frames.goaway is not None
        return not ending and len(self.streams) < most

    def open(self, fields: Fields, *, end: bool) -> Stream:
        """Opens a stream with the head of a request. Nothing has left before `flush`.

        Raises:
            ResetError: It cannot be opened.
        """
        stream = Stream(self, self._http.get_next_available_stream_id())
        self.put_head(stream, fields, end=end)
        self.streams[stream.number] = stream
        self._be_patient()
        return stream

    def retire(self) -> None:
        """Has the connection end with its last stream: now, where it has none."""
        self._retiring = True
        self._be_patient()

    async def flush(self) -> None:
        """Sends what is to be sent; returns when the other side has taken enough of it."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._unsent = 0
        if data := self._http.data_to_send():
            self._frames.sent(len(data))
            await self._wire.send(data, IDLE_S)

    async def pass_on(self) -> None:
        """Sends what is to be sent: a little with what follows at once, and else by itself. An answer of a head, a
        short body and an end so leaves as one.
        """
        behind = self._pushing is not None and not self._pushing.done()
        if behind or self._unsent >= SOON_BYTES:
            await self.flush()
        elif self._soon is None:
            self._soon = self._loop.call_soon(self._push)

    def _push(self) -> None:
        self._soon = None
        self._pushing = self._loop.create_task(self._flush_for_all())

    async def _flush_for_all(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):  # whoever sends next hears of it, or reads
            await self.flush()

    # -- for streams

    def put_head(self, stream: Stream, fields: Fields, *, end: bool) -> None:
        """Puts a head or trailers where `flush` takes it."""
        with self._sending():
            self._http.send_headers(stream.number, fields, end_stream=end)

    def put(self, stream: Stream, data: memoryview) -> int:
        """Puts a piece of a body there, of as many bytes as there is room for, which it returns."""
        with self._sending():
            count = min(
                len(data),
                self._http.local_flow_control_window(stream.number),
                self._http.max_outbound_frame_size,
                MAX_FRAME_BYTES,
            )
            if count <= 0:
                return 0
            self._http.send_data(stream.number, data[:count])
        self._unsent += count
        if stream.number in self.streams:
            # Others come first when there is room again.
            self.streams[stream.number] = self.streams.pop(stream.number)
        return count

    def put_end(self, stream: Stream, trailers: Fields) -> None:
        """Puts the end of a body there."""
        with self._sending():
            if trailers:
                self._http.send_headers(stream.number, trailers, end_stream=True)
            else:
                self._http.end_stream(stream.number)

    async def taken(self, stream: Stream, count: int) -> None:
        """Lets the other side send as much again."""
        with self._sending():
            self._http.acknowledge_received_data(count, stream.number)
        await self.flush()

    async def leave(self, stream: Stream, code: int) -> None:
        """Forgets a stream. What has not ended of it is reset."""
        if not self.forget(stream) or self._over:
            return
        known = self._http.streams.get(stream.number)
        with contextlib.suppress(ProtocolError):  # the connection may be about to end
            self._http.acknowledge_received_data(stream.owed, stream.number)
            if known is not None and not known.closed:
                self._http.reset_stream(stream.number, code)
        stream.break_off(ResetError("it was left"))
        with contextlib.suppress(OSError, TimeoutError):  # nobody is there to hear it
            await self.flush()

    def forget(self, stream: Stream) -> bool:
        """Makes room for another. Returns whether it was known still."""
        stream.broken = None
        known = self.streams.pop(stream.number, None) is not None
        if known:
            self._be_patient()
        return known

    # -- what comes

    def _hear(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._hear_settings()
            return
        if isinstance(event, RequestReceived):
            self._hear_request(event)
            return
        number = getattr(event, "stream_id", None)
        if isinstance(event, WindowUpdated) and not number:
            self._give_room()
            return
        known = None if number is None else self.streams.get(number)
        if known is None:
            if isinstance(event, DataReceived):  # of a stream that was left just now
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, DataReceived):
            known.heard(event.data, event.flow_controlled_length)
        elif isinstance(event, WindowUpdated):
            known.has_room()
        elif isinstance(event, TrailersReceived):
            known.trailers = _plain(event.headers)
        elif isinstance(event, StreamEnded):
            known.heard_end()
        elif isinstance(event, StreamReset):
            self._hear_reset(known, event.error_code)
        elif isinstance(event, InformationalResponseReceived | ResponseReceived):
            if known.crowded:
                raise FramesError(ENHANCE_YOUR_CALM, "more interim answers than anybody needs")
            known.heard_head(_plain(event.headers))

    def _hear_settings(self) -> None:
        if self._http.encoder.header_table_size > TABLE_BYTES:
            self._http.encoder.header_table_size = TABLE_BYTES
        # There are 65,536, of which those that nobody knows are to be ignored, and not kept.
        for code in [code for code in self._http.remote_settings if code not in KNOWN_SETTINGS]:
            del self._http.remote_settings[code]
        self._give_room()

    def _hear_request(self, event: RequestReceived) -> None:
        # Those that were reset count for as long as somebody is busy with them still.
        if self.opened is None or len(self.streams) >= MAX_STREAMS:
            self._http.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
        stream.ended = event.stream_ended is not None
        self.opened(stream, _plain(event.headers))

    def _hear_reset(self, stream: Stream, code: int | None) -> None:
        if self._client and stream.ended and code == NO_ERROR:
            return  # the answer is complete, and no more of the request is wanted
        name = code.name if isinstance(code, ErrorCodes) else str(code)
        stream.break_off(ResetError(f"it was reset: {name}", heard=code != ErrorCodes.REFUSED_STREAM))

    def _hear_end(self) -> None:
        if self._frames.goaway is None:
            return
        for number, stream in list(self.streams.items()):
            if self._client and number > self._frames.goaway.last:
                stream.break_off(ResetError("the connection takes no more", heard=False))

    def _give_room(self) -> None:
        for stream in list(self.streams.values()):
            stream.has_room()

    # -- its end

    @property
    def _finished(self) -> bool:
        return not self.streams and (self._retiring or self._frames.goaway is not None)

    def _be_patient(self) -> None:
        """Says how long is waited for what comes next."""
        if self._patience is None or self._patience.expired():
            return
        now = self._loop.time()
        if self._finished:
            self._patience.reschedule(now)
        elif self._frames.since is not None:
            self._patience.reschedule(self._frames.since + PARTIAL_S)
        else:
            self._patience.reschedule(None if self.streams else now + self._idle_s)

    async def _say_end(self, code: int, why: str) -> None:
        with contextlib.suppress(OSError, TimeoutError, ProtocolError):
            self._http.close_connection(code, additional_data=why.encode() or None)
            async with asyncio.timeout(LAST_WORD_S):
                await self.flush()

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """What cannot be said any more, nobody hears."""
        if self._over:
            raise ResetError("the connection has ended")
        try:
            yield
        except ProtocolError as error:
            raise ResetError(f"it cannot be sent: {error}") from None


def _plain(fields: Iterable[tuple[Any, Any]]) -> Fields:
    """Gives fields as pairs of bytes, and no more: `hpack` has types of its own for them."""
    return [(bytes(name), bytes(value)) for name, value in fields]
