"""TLS over a connection, whichever side of it we are.

It is done over memory (`ssl.MemoryBIO`), so that the first bytes of a client can be looked at before anything answers
them, and so that what came before a handshake can never be taken for what came under its protection.
"""

import asyncio
import contextlib
import ssl
from typing import Final, cast

from kibo.effects.wires import CHUNK_BYTES, HTTP1, Plain, Scratch

HANDSHAKE_S: Final = 15.0
_OPENED: Final = Scratch()


class Tls:
    """TLS over a plain connection, whichever side of it we are."""

    def __init__(
        self, plain: Plain, context: ssl.SSLContext, *, server: bool, host: str | None = None
    ) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=host)
        self._over = False

    async def handshake(self) -> None:
        """Agrees on keys, and checks the other side's certificate where this is the client's end.

        Raises:
            ssl.SSLError: The other side was not what it should be.
            OSError: It went away.
            TimeoutError: It took too long.
        """
        async with asyncio.timeout(HANDSHAKE_S):
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._feed()
                    continue
                except ssl.SSLError:
                    with contextlib.suppress(OSError):
                        await self._flush()  # The alert, by which the other side learns why.
                    raise
                await self._flush()
                return

    @property
    def protocol(self) -> str:
        """What both sides have agreed to speak."""
        return self._tls.selected_alpn_protocol() or HTTP1

    async def receive(self, patience_s: float | None = None) -> bytes:
        opened, got = _OPENED.view, 0
        while not self._over:
            try:
                # A record has 16 KiB at most: take all that are here, for fewer turns of everything above.
                while got < CHUNK_BYTES:
                    # With a buffer it returns a count, which its declared type does not say.
                    count = cast(int, self._tls.read(CHUNK_BYTES - got, opened[got:]))
                    if not count:
                        self._over = True
                        break
                    got += count
                break
            except ssl.SSLWantReadError:
                if got:
                    break
                await self._flush()
                await self._feed(patience_s)
            except ssl.SSLZeroReturnError:
                self._over = True
            except ssl.SSLEOFError:
                # Without TLS's own end somebody between may have cut the rest off.
                raise ConnectionResetError("the connection ended without saying so") from None
        return bytes(opened[:got])

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        if data:
            self._tls.write(data)
        await self._flush(patience_s)

    async def finish(self) -> None:
        with contextlib.suppress(ssl.SSLError, OSError):
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass  # Ours is written; theirs may come later.
            await self._flush()

    def reset(self) -> None:
        self._plain.reset()

    def close(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        if rest := self._outgoing.read():
            with contextlib.suppress(OSError):
                self._plain.write(rest)
        self._plain.close()

    @property
    def stale(self) -> bool:
        # Session tickets come after the handshake, without being asked for: they are read before anything is judged.
        self._incoming.write(self._plain.received())
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return self._over or self._plain.stale
        except ssl.SSLError:
            return True
        return True

    async def _feed(self, patience_s: float | None = None) -> None:
        data = await self._plain.receive(patience_s)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self, patience_s: float | None = None) -> None:
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read(), patience_s)
