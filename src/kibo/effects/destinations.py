"""Where a box's request may go: its rules, and the addresses that a name leads to."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from kibo.box.policy import WEB_PORTS, Allow, Deny, Rule, find_approval, find_rule, plain_path, split_target

HOST_LOOPBACK: Final = "host.kibo"
RESOLVE_S: Final = 10.0


class Destination(NamedTuple):
    """Addresses that were checked, in the order to try them: a name is not looked up again to connect."""

    addresses: list[str]
    port: int


class Refused(Exception):
    """An answer of the proxy's own: the status line's end, and a text for whoever reads the page.

    Attributes:
        status: As above.
        errno: What the system said of a server that cannot be reached; 0 where it said nothing.
    """

    def __init__(self, status: str, text: str, errno: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.errno = errno

    def text(self) -> bytes:
        """Writes what the page says. It is plain text, so nothing in it can be markup."""
        return f"Kibo: {self}\n".encode()

    def page(self) -> bytes:
        """Writes the answer in HTTP/1.1."""
        text = self.text()
        head = f"HTTP/1.1 {self.status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\n"
        return head.encode() + b"connection: close\r\n\r\n" + text


class CutError(ConnectionResetError):
    """A connection that is refused where no answer of the proxy's could be understood. Its text is for the log."""


def decide(
    rules: Sequence[Rule],
    host: str,
    port: int,
    methods: Sequence[str] = (),
    path: str | None = None,
    *,
    http: bool = True,
) -> Allow:
    """Decides whether a request may be made. Pure.

    Args:
        rules: Those of the box.
        host: What is asked for.
        port: Of that host.
        methods: What is to be done there, in each way that a server may read it.
        path: Where, without a query. None asks for the host alone: whether anything there may be allowed.
        http: Whether it is known to be HTTP, which the remedy depends on.

    Raises:
        Refused: No rule allows it, or a rule denies it.
    """
    shown = show(host, port)
    asked = shown if path is None else f"{'/'.join(methods)} {path} at {shown}"
    rule = find_rule(rules, host, port, methods, path)
    if isinstance(rule, Deny):
        raise Refused("403 Forbidden", f"{write(rule)} keeps this box from {asked}, whatever allows it.")
    near = find_rule(rules, host, port) if rule is None and path is not None else None
    if isinstance(near, Allow):
        raise Refused("403 Forbidden", _not_within(near, asked, shown, methods, path or ""))
    # A wildcard does not name this machine; only the thing itself does.
    if rule is None or (host == HOST_LOOPBACK and not _is_exact(rule, host)):
        remedy = f'add Allow("{shown}") to the `egress` of the Box that needs it.'
        if not http and port not in WEB_PORTS:
            remedy += f' Where it is not HTTP that is spoken there, Allow("{shown}", tcp=True).'
        raise Refused("403 Forbidden", f"no rule lets this box reach {shown}. To allow it, {remedy}")
    return rule


def check_seen(rules: Sequence[Rule], rule: Allow, host: str, port: int) -> None:
    """Sees that a rule leaves nothing unopened where a person has to approve what is sent. Pure.

    Raises:
        Refused: It does.
    """
    if find_approval(rules, host, port) is not None:
        raise Refused(
            "403 Forbidden",
            f"a person has to approve what is asked for at {show(host, port)}, and {write(rule)} leaves it unopened, "
            f"so that nobody can see it. Leave out `{'tcp' if rule.tcp else 'passthrough'}` there.",
        )


def _not_within(near: Allow, asked: str, shown: str, methods: Sequence[str], path: str) -> str:
    if near.paths and plain_path(path) is None:
        return (
            f"servers may read the path of {asked} in more than one way, so that {write(near)} cannot be held against "
            "it. Ask for the path without dots, doubled slashes and what is encoded for no reason."
        )
    limits = f"methods={_listed(methods)}" + (f", paths={_listed([path])}" if near.paths else "")
    return (
        f"{write(near)} lets this box reach {shown}, but does not cover {asked}. To allow it, add "
        f'Allow("{shown}", {limits}) to the `egress` of the Box that needs it.'
    )


def only_http(rule: Allow, host: str, port: int) -> str:
    """Says why another protocol is refused where a rule allows HTTP."""
    shown = show(host, port)
    return (
        f"{write(rule)} lets this box speak HTTP to {shown}, with TLS or without, and no other protocol. To "
        f'allow that, write Allow("{shown}", tcp=True).'
    )


def write(rule: Rule) -> str:
    """Writes a rule as its author would."""
    limits = [f"{name}={_listed(values)}" for name in ("methods", "paths") if (values := getattr(rule, name))]
    if isinstance(rule, Allow):
        limits += [f"{name}=True" for name in ("passthrough", "tcp") if getattr(rule, name)]
        limits += [f"effect={_quoted(rule.effect)}"] if rule.effect else []
        limits += [f"{name}=True" for name in ("approve", "idempotent") if getattr(rule, name)]
    return f"{type(rule).__name__}({', '.join([_quoted(rule.target), *limits])})"


def _listed(values: Sequence[str]) -> str:
    return f"({', '.join(map(_quoted, values))}{',' * (len(values) == 1)})"


def _quoted(text: str) -> str:
    return f'"{text}"'


async def find_destination(rule: Allow, host: str, port: int) -> Destination:
    """Finds the addresses that a request for `host` and `port`, which `rule` allows, may go to.

    Raises:
        Refused: The name has no address, or only private ones.
    """
    if rule.to is not None:
        to, to_port = split_target(rule.to)
        return Destination(await _resolve(to), to_port or port)
    if host == HOST_LOOPBACK:
        return Destination(["127.0.0.1", "::1"], port)
    addresses = await _resolve(host)
    # An address that a rule spells out is allowed, private or not.
    if not (_is_exact(rule, host) and addresses == [host]):
        addresses = [address for address in addresses if is_public(address)]
    if not addresses:
        shown = show(host, port)
        raise Refused(
            "403 Forbidden",
            f"{shown} leads to a private, loopback or link-local address, which a rule must name. To allow it, write "
            f'Allow("{shown}", to="<address>:<port>").',
        )
    return Destination(addresses, port)


def show(host: str, port: int) -> str:
    """Writes a host and a port as a rule does."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_exact(rule: Allow, host: str) -> bool:
    return split_target(rule.target)[0] == host


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
