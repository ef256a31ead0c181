"""What was compressed for its way (RFC 9110, section 8.4), unpacked piece by piece. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import zstandard

from kibo.model.limits import MAX_DECODED_BYTES

_PIECE_BYTES: Final = 64 * 1024
#: Zstandard has no bound on what one call gives: a block of 128 KiB may take four bytes, so that this gives 8 MiB.
_ZSTD_SLICE_BYTES: Final = 256
_ZSTD_WINDOW_BYTES: Final = 8 << 20  # RFC 8878: what every decoder takes.


class CodingError(Exception):
    """It cannot be unpacked; the text says why."""


class Decoder(Protocol):
    """Unpacks one stream."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes a piece; gives what is in it, in pieces.

        Raises:
            CodingError: It is malformed, or more would come of it than may.
        """

    @property
    def whole(self) -> bool:
        """Whether what was packed has come to its end."""


class _Bounded:
    def __init__(self, most: int | None) -> None:
        self._most = most
        self._given = 0

    def _counted(self, piece: bytes) -> bytes:
        self._given += len(piece)
        if self._most is not None and self._given > self._most:
            raise CodingError(f"unpacked, it has more than {self._most} bytes")
        return piece


class _Zlib(_Bounded):
    """gzip, of which one may follow another."""

    def __init__(self, most: int | None) -> None:
        super().__init__(most)
        self._inner: zlib._Decompress | None = None

    @property
    def whole(self) -> bool:
        return self._inner is None

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._inner is None:
                    self._inner = zlib.decompressobj(self._window(data[0]))
                piece = self._inner.decompress(data, _PIECE_BYTES)
                yield self._counted(piece)
                data = self._inner.unconsumed_tail
                if self._inner.eof:
                    data, self._inner = self._inner.unused_data, None
                elif not data and len(piece) == _PIECE_BYTES:
                    yield from self._rest(self._inner)
        except zlib.error as error:
            raise CodingError(str(error)) from None

    def _window(self, first: int) -> int:
        return zlib.MAX_WBITS | 16

    def _rest(self, inner: zlib._Decompress) -> Iterator[bytes]:
        while piece := inner.decompress(b"", _PIECE_BYTES):
            yield self._counted(piece)


class _Deflate(_Zlib):
    """zlib's, whose head some servers leave out."""

    def _window(self, first: int) -> int:
        return zlib.MAX_WBITS if first & 0x0F == 8 else -zlib.MAX_WBITS


class _Zstandard(_Bounded):
    def __init__(self, most: int | None) -> None:
        super().__init__(most)
        self._begun = False
        self._make = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj
        self._inner = self._make()

    @property
    def whole(self) -> bool:
        return self._inner.eof or not self._begun

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                self._begun = True
                if self._inner.eof:
                    self._inner = self._make()
                piece = self._inner.decompress(data[:_ZSTD_SLICE_BYTES])
                data = self._inner.unused_data + data[_ZSTD_SLICE_BYTES:]
                yield self._counted(piece)
        except zstandard.ZstdError as error:
            raise CodingError(str(error)) from None


_DECODERS: Final[dict[bytes, Callable[[int | None], Decoder]]] = {
    b"gzip": _Zlib,
    b"x-gzip": _Zlib,
    b"deflate": _Deflate,
    b"zstd": _Zstandard,
}


def unpackable(accepted: bytes) -> bytes:
    """Returns what of an Accept-Encoding can be unpacked here."""
    words = [word.strip() for word in accepted.split(b",")]
    kept = [word for word in words if word.partition(b";")[0].strip().lower() in (*_DECODERS, b"identity")]
    return b", ".join(kept) or b"identity"


def decoder(codings: bytes, most: int | None = MAX_DECODED_BYTES) -> Decoder | None:
    """Makes what unpacks a body.

    Args:
        codings: The value of Content-Encoding; may be empty.
        most: How many bytes may come of it; None where they are passed on as they come, and nobody keeps them.

    Returns:
        None where nothing was packed.

    Raises:
        CodingError: It is of a kind that is not unpacked here.
    """
    named = [word.strip().lower() for word in codings.split(b",") if word.strip()]
    named = [word for word in named if word != b"identity"]
    if not named:
        return None
    if len(named) > 1 or named[0] not in _DECODERS:
        raise CodingError(f"it is packed with {codings.decode('latin-1')[:100]}, which is not unpacked here")
    return _DECODERS[named[0]](most)
