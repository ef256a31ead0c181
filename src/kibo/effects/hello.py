"""The first message of a TLS client: which host it asks for (RFC 8446, section 4.1.2; RFC 6066, section 3). Pure."""

from typing import Final

#: What is read of one at most: post-quantum key shares make it some 2 KB, and 16 KiB is what one record holds.
MAX_HELLO_BYTES: Final = 16 * 1024 + 5
HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0


class HelloError(Exception):
    """What came is no ClientHello."""


class Bytes:
    """A cursor over bytes that may end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        """Whether all of it has been taken."""
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        """Takes `count` bytes.

        Raises:
            HelloError: There are fewer.
        """
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise HelloError("The TLS client's first message is cut off.")
        self._at += count
        return taken

    def number(self, size: int) -> int:
        """Takes a number of `size` bytes."""
        return int.from_bytes(self.take(size))

    def take_all(self) -> bytes:
        """Takes what is left."""
        return self.take(len(self._data) - self._at)

    def vector(self, size: int) -> "Bytes":
        """Takes bytes that a length of `size` bytes stands before."""
        return Bytes(self.take(self.number(size)))


def whole(data: bytes) -> bytes | None:
    """Joins the records of a ClientHello's message; None while more has to come.

    Raises:
        HelloError: It is something else, or too long.
    """
    message, at = b"", 0
    while True:
        if len(message) >= 4:
            if message[0] != _CLIENT_HELLO:
                raise HelloError("The TLS client's first message is another one.")
            end = 4 + int.from_bytes(message[1:4])
            if end > MAX_HELLO_BYTES:
                raise HelloError("The TLS client's first message is too long.")
            if len(message) >= end:
                return message[4:end]
        if len(data) > MAX_HELLO_BYTES:
            raise HelloError("The TLS client's first message is too long.")
        if len(data) - at < 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5])
        if data[at] != HANDSHAKE or data[at + 1] != 3 or not length:
            raise HelloError("The TLS client's first message is malformed.")
        if len(data) - at - 5 < length:
            return None
        message += data[at + 5 : at + 5 + length]
        at += 5 + length


def server_name(message: bytes) -> str | None:
    """Reads the host that a ClientHello asks for, in lower case; None when it names none.

    Raises:
        HelloError: The message is malformed, or names more than one host, or in letters that no name has.
    """
    hello = Bytes(message)
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session
    hello.vector(2)  # ciphers
    hello.vector(1)  # compressions
    if hello.over:
        return None
    extensions, found = hello.vector(2), []
    while not extensions.over:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            names = content.vector(2)
            while not names.over:
                if names.number(1) != 0:
                    raise HelloError("The TLS client asks for something that is no host.")
                found.append(names.vector(2).take_all())
    if len(found) > 1:
        raise HelloError("The TLS client asks for more than one host.")
    if not found:
        return None
    name = found[0]
    if not name or not name.isascii() or any(byte <= 32 or byte == 127 for byte in name):
        raise HelloError("The host that the TLS client asks for is malformed.")
    return name.decode("ascii").lower().rstrip(".")
