"""Where a box's request may go: its rules, and the addresses that a name leads to."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from kibo.box.policy import Deny, Rule, find_rule, split_target

HOST_LOOPBACK: Final = "host.kibo"
RESOLVE_S: Final = 10.0


class Destination(NamedTuple):
    """Addresses that were checked, in the order to try them: a name is not looked up again to connect."""

    addresses: list[str]
    port: int


class Refused(Exception):
    """An answer of the proxy's own: the status line's end, and a text for whoever reads the page."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status

    def page(self) -> bytes:
        """Writes the answer. The text is plain text, so nothing in it can be markup."""
        text = f"Kibo: {self}\n".encode()
        head = f"HTTP/1.1 {self.status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\n"
        return head.encode() + b"connection: close\r\n\r\n" + text


async def find_destination(rules: Sequence[Rule], host: str, port: int) -> Destination:
    """Decides where a request for `host` and `port` may go.

    Raises:
        Refused: No rule allows it, a rule denies it, the name has no address, or only private ones.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    rule = find_rule(rules, host, port)
    if isinstance(rule, Deny):
        raise Refused(
            "403 Forbidden", f'Deny("{rule.target}") keeps this box from {shown}, whatever allows it.'
        )
    # A wildcard names neither this machine nor an address; only the thing itself does.
    exact = rule is not None and split_target(rule.target)[0] == host
    if rule is None or (host == HOST_LOOPBACK and not exact):
        raise Refused(
            "403 Forbidden",
            f'no rule lets this box reach {shown}. To allow it, add Allow("{shown}") to the `egress` of the Box '
            "that needs it.",
        )
    if rule.to is not None:
        to, to_port = split_target(rule.to)
        return Destination(await _resolve(to), to_port or port)
    if host == HOST_LOOPBACK:
        return Destination(["127.0.0.1", "::1"], port)
    addresses = await _resolve(host)
    if not (exact and addresses == [host]):  # An address that a rule spells out is allowed, private or not.
        addresses = [address for address in addresses if is_public(address)]
    if not addresses:
        raise Refused(
            "403 Forbidden",
            f"{shown} leads to a private, loopback or link-local address, which a rule must name. To allow it, write "
            f'Allow("{shown}", to="<address>:<port>").',
        )
    return Destination(addresses, port)


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet, also when it is wrapped in an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return ip.is_global and not ip.is_multicast


async def _resolve(host: str) -> list[str]:
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise Refused("502 Bad Gateway", f"the name {host} has no address.") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
