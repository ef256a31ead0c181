"""The server's side of SOCKS version 5 (RFC 1928): what a client asks for, and the answers. Nothing else is spoken.

Of its commands there is CONNECT only, and of its methods only the one without a password: whoever is in the box may
ask, and its rules decide.
"""

import asyncio
import errno
import ipaddress
import re
import struct
from typing import Final

from kibo.effects.destinations import Refused
from kibo.effects.wires import Plain

VERSION: Final = 5
OLD_VERSION: Final = 4
NO_PASSWORD: Final = 0
NO_METHOD: Final = 0xFF
CONNECT: Final = 1
COMMANDS: Final = {2: "BIND", 3: "UDP ASSOCIATE"}
IPV4, NAME, IPV6 = 1, 3, 4

GRANTED: Final = 0
FAILED: Final = 1
NOT_ALLOWED: Final = 2
NO_NETWORK: Final = 3
NO_HOST: Final = 4
NO_SERVER: Final = 5
NO_COMMAND: Final = 7
NO_ADDRESS_TYPE: Final = 8

#: How SOCKS 4 is told no (its field of the version is 0 in answers).
OLD_NO: Final = b"\0\x5b" + bytes(6)
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?|[0-9A-Fa-f:.]{2,45}")


class SocksRefused(Refused):
    """What was asked for is not SOCKS, or not a part of it that there is."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__("400 Bad Request", text)
        self.code = code


async def asked(plain: Plain, patience_s: float) -> tuple[str, int]:
    """Greets a client and reads what it asks for: a host, in lower case, and a port.

    Args:
        plain: The connection, of which nothing has been read.
        patience_s: From now to the end of the request.

    Raises:
        SocksRefused: Not a connection.
        TimeoutError: It came too slowly.
        OSError: The connection broke off.
    """
    async with asyncio.timeout(patience_s):
        _, count = await _take(plain, 2)
        if NO_PASSWORD not in await _take(plain, count):
            await plain.send(bytes([VERSION, NO_METHOD]))
            raise SocksRefused(
                NO_METHOD, "a SOCKS client wants to give a password, and there is none to give here."
            )
        await plain.send(bytes([VERSION, NO_PASSWORD]))
        version, command, reserved, kind = await _take(plain, 4)
        if version != VERSION or reserved:
            raise SocksRefused(FAILED, "a SOCKS request is malformed.")
        if kind == NAME:
            host = _name(await _take(plain, (await _take(plain, 1))[0]))
        elif kind in (IPV4, IPV6):
            host = str(ipaddress.ip_address(await _take(plain, 4 if kind == IPV4 else 16)))
        else:
            raise SocksRefused(NO_ADDRESS_TYPE, f"a SOCKS request has an address of the unknown type {kind}.")
        (port,) = struct.unpack(">H", await _take(plain, 2))
        if command != CONNECT:
            named = COMMANDS.get(command, f"command {command}")
            raise SocksRefused(
                NO_COMMAND, f"SOCKS connects here, and does nothing else: it was asked for {named}."
            )
        if host == "" or not port:
            raise SocksRefused(FAILED, "the host or the port of a SOCKS request is malformed.")
    return host, port


async def answer(plain: Plain, code: int) -> None:
    """Answers a request. Which address the gateway connects from is nobody's business."""
    await plain.send(bytes([VERSION, code, 0, IPV4]) + bytes(6))


def code_of(refusal: Refused) -> int:
    """Returns the answer that says best why something was refused."""
    if isinstance(refusal, SocksRefused):
        return refusal.code
    if refusal.status.startswith("403"):
        return NOT_ALLOWED
    if refusal.status.startswith("502"):
        return {errno.ECONNREFUSED: NO_SERVER, errno.ENETUNREACH: NO_NETWORK}.get(refusal.errno, NO_HOST)
    return FAILED


def _name(data: bytes) -> str:
    """Reads a host's name; empty where it is none."""
    name = data.decode("latin-1")
    return name.lower().rstrip(".") if _HOST.fullmatch(name) else ""


async def _take(plain: Plain, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await plain.receive()
        if not more:
            raise ConnectionResetError("the SOCKS request broke off")
        data += more
    plain.unread(data[count:])
    return data[:count]
