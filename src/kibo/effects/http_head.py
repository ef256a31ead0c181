"""The head of a request: that of HTTP/1 read strictly; any checked, and written anew. Pure: bytes in, bytes out.

Whatever two programs might read differently is refused rather than passed on (RFC 9112, sections 3 and 6.3): that is
how a request for an allowed host would carry another one.
"""

import base64
import html
import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote, quote_plus, urlsplit

from kibo.box.policy import Allow, find_rule, split_target
from kibo.model.errors import InvalidDefinition

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LENGTH = re.compile(rb"[0-9]{1,15}")
#: What concerns one connection only, and so is not passed on (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate te upgrade".split()
)
#: What some servers answer only to (those of gRPC): whoever sends it on a connection says it again there.
TRAILERS_TAKEN = (b"te", b"trailers")
#: Fields of a head at most: browsers send some thirty.
MAX_FIELDS = 256
#: The one protocol that a connection may change to. `h2c` would carry requests that nobody checks.
WEBSOCKET = b"websocket"

#: Fields that frameworks read in place of the method, so that a POST is a DELETE.
OVERRIDES = (b"x-http-method-override", b"x-http-method", b"x-method-override")
#: Fields that some servers read in place of the target's path: so nobody could say what such a request is for.
REWRITES = (b"x-original-url", b"x-rewrite-url")


class HeadError(Exception):
    """The head is not one that a careful client sends."""


class ElsewhereError(HeadError):
    """The request is for another host than its connection."""


class SecretValue(NamedTuple):
    """A secret on its way out: what the box holds, what is put in its place, and for which hosts."""

    placeholder: str
    value: str
    hosts: tuple[str, ...]


class Head(NamedTuple):
    """A request line and its fields.

    Attributes:
        method: As sent.
        target: As sent: ``host:port`` for CONNECT, else a URL.
        fields: Names in lower case, and values, in order.
    """

    method: bytes
    target: str
    fields: list[tuple[bytes, bytes]]

    @classmethod
    def parse(cls, data: bytes) -> "Head":
        """Reads a head up to and including its empty line.

        Raises:
            HeadError: It is malformed, or folded, or not HTTP/1.
        """
        line, *rest = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
        words = line.split(b" ")
        if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise HeadError("The request line is not one of HTTP/1.")
        fields = []
        for field in rest:
            name, colon, value = field.partition(b":")
            if not colon:
                raise HeadError("A header field is malformed.")
            fields.append((name, value))
        return cls.of(words[0], words[1], fields)

    @classmethod
    def of(cls, method: bytes, target: bytes, fields: Sequence[tuple[bytes, bytes]]) -> "Head":
        """Makes a head of its parts, whichever protocol they came by.

        Raises:
            HeadError: One of them is malformed.
        """
        if not TOKEN.fullmatch(method):
            raise HeadError("The method of the request is malformed.")
        if not target.isascii() or re.search(rb"[\x00-\x20\x7f\\]", target):
            raise HeadError("The target of the request has characters that no URL has.")
        if len(fields) > MAX_FIELDS:
            raise HeadError(f"There are more than {MAX_FIELDS} header fields.")
        checked = []
        for name, value in fields:
            if not TOKEN.fullmatch(name) or re.search(rb"[\x00\r\n]", value):
                raise HeadError("A header field is malformed.")
            if plain_name(name.lower()) in REWRITES:
                raise HeadError(f"{name.decode()} names another path than the target does.")
            checked.append((name.lower(), value.strip(b" \t")))
        return cls(method, target.decode("ascii"), checked)

    @property
    def tunnel(self) -> bool:
        """Whether a connection is wanted rather than a page."""
        return self.method == b"CONNECT"

    def destination(self) -> tuple[str, int]:
        """Returns the host, in lower case, and the port that are wanted.

        Raises:
            HeadError: The target is not a proxy's, or the Host field names another host.
        """
        try:
            if self.tunnel:
                host, port = split_target(self.target)
                if port is None:
                    raise HeadError("CONNECT needs a port.")
                return host, port
            url = urlsplit(self.target)
            if url.scheme.lower() != "http" or not url.netloc or url.username is not None:
                raise HeadError("This is a proxy: it takes http:// URLs and CONNECT.")
            host, port = split_target(url.netloc)
            named = [split_target(value.decode("ascii")) for value in self.values(b"host")]
        except (InvalidDefinition, ValueError):
            raise HeadError("The host of the request is malformed.") from None
        if len(named) > 1 or any((h, p or 80) != (host, port or 80) for h, p in named):
            raise HeadError("The Host field and the target of the request differ.")
        return host, port or 80

    def check_origin(self, host: str, port: int, *, secure: bool) -> None:
        """Sees that a request on a connection for one host is for that host.

        Raises:
            HeadError: Its target is a URL or none at all, or there is not one Host field.
            ElsewhereError: The Host field names another host or port.
        """
        if not self.target.startswith("/") and (self.method, self.target) != (b"OPTIONS", "*"):
            raise HeadError("The target of a request on this connection must be a path.")
        named = self.values(b"host")
        if len(named) != 1:
            raise HeadError("There must be one Host field.")
        try:
            wanted, wanted_port = split_target(named[0].decode("ascii"))
        except (InvalidDefinition, ValueError):
            raise HeadError("The host of the request is malformed.") from None
        if (wanted, wanted_port or (443 if secure else 80)) != (host, port):
            raise ElsewhereError(named[0].decode("ascii"))

    def methods(self) -> list[str]:
        """Lists what a server may take for the method: frameworks read some fields in its place."""
        named = [value for name, value in self.fields if plain_name(name) in OVERRIDES]
        return list(dict.fromkeys(value.decode("latin-1").upper() for value in (self.method, *named)))

    def path(self) -> bytes:
        """Returns the target as an origin server takes it."""
        if not self.target.lower().startswith("http://"):
            return self.target.encode()
        url = urlsplit(self.target)
        return ((url.path or "/") + (f"?{url.query}" if url.query else "")).encode()

    @property
    def upgrade(self) -> bool:
        """Whether the connection is to become a WebSocket."""
        named = b",".join(self.values(b"connection")).lower().split(b",")
        wanted = [value.lower() for value in self.values(b"upgrade")]
        return wanted == [WEBSOCKET] and b"upgrade" in [word.strip() for word in named]

    def values(self, name: bytes) -> list[bytes]:
        """Lists the values of the fields called `name`."""
        return [value for field, value in self.fields if field == name]

    def body_length(self) -> int | None:
        """Returns the length of the body in bytes; None when it comes in chunks.

        Raises:
            HeadError: The fields leave a doubt about it.
        """
        lengths, codings = self.values(b"content-length"), self.values(b"transfer-encoding")
        if codings:
            if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
                raise HeadError("The length of the body is ambiguous.")
            return None
        if len(lengths) > 1 or not all(LENGTH.fullmatch(length) for length in lengths):
            raise HeadError("The length of the body is ambiguous.")
        return int(lengths[0]) if lengths else 0

    def may_hold_secrets(self) -> bool:
        """Whether secrets are put into the body: text that nobody has compressed."""
        return self._notation() is not None and not self.values(b"content-encoding")

    def notation(self) -> Callable[[str], str]:
        """Returns what writes a value as the body has it."""
        return self._notation() or str

    def _notation(self) -> Callable[[str], str] | None:
        kind = b";".join(self.values(b"content-type")).partition(b";")[0].strip().lower()
        for ends, notation in _NOTATIONS.items():
            if kind.endswith(ends):
                return notation
        return str if kind.startswith(b"text/") or kind == b"multipart/form-data" else None

    def fill(self, secrets: Sequence[SecretValue], body: bytes | None) -> tuple["Head", bytes]:
        """Puts the values of secrets into the target, the fields and the body, each in its own notation.

        Args:
            secrets: The secrets.
            body: The whole body; None for one that passes as it is.
        """
        passing, body = body is None, body or b""
        body = _fill(body, secrets, self.notation())
        target = _fill(self.target.encode(), secrets, lambda value: quote(value, safe="")).decode()
        # A value of several lines would end the field, and begin others.
        short = [secret for secret in secrets if secret.value.isprintable()]
        fields = [
            (
                name,
                str(len(body)).encode()
                if name == b"content-length" and not passing
                else _fill_field(name, value, short),
            )
            for name, value in self.fields
        ]
        return Head(self.method, target, fields), body

    def outgoing(self, authority: bytes) -> list[tuple[bytes, bytes]]:
        """Lists the fields as the origin server gets them: Host first, and nothing that concerned us alone."""
        named = {word.strip().lower() for value in self.values(b"connection") for word in value.split(b",")}
        dropped = (HOP_BY_HOP | named | {b"host"}) - {b"content-length", b"transfer-encoding"}
        kept = [field for field in self.fields if field[0] not in dropped or field == TRAILERS_TAKEN]
        if self.upgrade:
            kept += [(b"connection", b"upgrade"), (b"upgrade", WEBSOCKET)]
        return [(b"host", authority), *kept]


def plain_name(name: bytes) -> bytes:
    """Returns a field's name as what is called by CGI's rules reads it: there ``-`` and ``_`` are one (RFC 3875)."""
    return name.replace(b"_", b"-")


def secrets_for(secrets: Sequence[SecretValue], host: str, port: int) -> list[SecretValue]:
    """Lists the secrets that `host` may receive."""
    return [s for s in secrets if find_rule([Allow(name) for name in s.hosts], host, port)]


def _fill(data: bytes, secrets: Sequence[SecretValue], notation: Callable[[str], str]) -> bytes:
    for secret in secrets:
        data = data.replace(secret.placeholder.encode(), notation(secret.value).encode())
    return data


def _fill_field(name: bytes, value: bytes, secrets: Sequence[SecretValue]) -> bytes:
    """As `_fill`, also where a name and a password stand in Base64 (RFC 7617)."""
    scheme, space, credentials = value.partition(b" ")
    if name == b"authorization" and scheme.lower() == b"basic":
        try:
            known = base64.b64decode(credentials.strip(), validate=True)
        except ValueError:
            pass  # a secret may be in there as it is to be sent
        else:
            full = _fill(known, secrets, str)
            return value if full == known else scheme + space + base64.b64encode(full)
    return _fill(value, secrets, str)


def as_json(value: str) -> str:
    """Writes a value as it stands within quotes in JSON."""
    return json.dumps(value)[1:-1]


#: How a value is written in bodies, by how their kinds end.
_NOTATIONS: dict[bytes, Callable[[str], str]] = {
    b"/x-www-form-urlencoded": quote_plus,
    b"/json": as_json,
    b"+json": as_json,
    b"/x-ndjson": as_json,
    b"/xml": html.escape,
    b"+xml": html.escape,
    b"/html": html.escape,
}
