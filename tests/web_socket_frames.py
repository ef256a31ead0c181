"""The frames of a WebSocket, written and read for tests."""

from __future__ import annotations


def frame(first: int, data: bytes, mask: bytes = b"") -> bytes:
    """Writes one; with a mask, as clients do."""
    size = len(data)
    if mask:
        plain = frame(first, data)
        at = len(plain) - size
        return plain[:1] + bytes([plain[1] | 0x80]) + plain[2:at] + mask + _xor(data, mask)
    if size < 126:
        return bytes([first, size]) + data
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2) + data
    return bytes([first, 127]) + size.to_bytes(8) + data


def _xor(data: bytes, mask: bytes) -> bytes:
    key = mask * (len(data) // 4 + 1)
    return (int.from_bytes(data) ^ int.from_bytes(key[: len(data)])).to_bytes(len(data))


def unframed(data: bytes) -> list[tuple[int, bytes]]:
    """The messages, and the control frames between them, each with its kind."""
    found: list[tuple[int, bytes]] = []
    kind, message = 0, b""
    while data:
        first, masked, length, data = data[0], data[1] & 0x80, data[1] & 0x7F, data[2:]
        if length > 125:
            more = 2 if length == 126 else 8
            length, data = int.from_bytes(data[:more]), data[more:]
        mask, data = (data[:4], data[4:]) if masked else (bytes(4), data)
        piece, data = data[:length], data[length:]
        piece = _xor(piece, mask)
        assert len(piece) == length
        if first & 0x0F >= 8:
            found.append((first & 0x0F, piece))
            continue
        kind, message = (first & 0x0F) or kind, message + piece
        if first & 0x80:
            found.append((kind, message))
            message = b""
    assert not message
    return found
