"""Requests between the fields of HTTP/2 and the head that both protocols share (RFC 9113, section 8.3). Pure."""

import re
from typing import Final

from kibo.effects.exchange import Fields, Request
from kibo.effects.http_head import Head, HeadError

_CHUNKED: Final = (b"transfer-encoding", b"chunked")
#: What HTTP/1.1 says of a connection, or says otherwise.
_ELSEWHERE: Final = frozenset(b"host connection upgrade transfer-encoding".split())
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")


def read_head(fields: Fields, *, ended: bool) -> Head:
    """Reads the fields of a request within TLS as the head that it would have in HTTP/1.1.

    Args:
        fields: As they came; pseudo-header fields first, none twice.
        ended: Whether no body follows.

    Raises:
        HeadError: No server would take it, or two might take it for different things.
    """
    pseudo = {name: value for name, value in fields if name.startswith(b":")}
    plain = [(name, value) for name, value in fields if not name.startswith(b":")]
    if pseudo.get(b":method") == b"CONNECT":
        raise HeadError("There is no proxy within a tunnel.")
    if pseudo.get(b":scheme") != b"https":
        raise HeadError("The scheme of a request within TLS must be https.")
    named = {value for name, value in plain if name == b"host"} | {pseudo.get(b":authority", b"")} - {b""}
    if len(named) != 1:
        raise HeadError("There must be one host.")
    kept = [field for field in plain if field[0] != b"host"]
    head = Head.of(pseudo[b":method"], pseudo[b":path"], [(b"host", named.pop()), *kept])
    announced = head.body_length()
    if ended and announced:
        raise HeadError("The length of the body is not what was announced.")
    if not ended and not head.values(b"content-length"):
        head.fields.append(_CHUNKED)
    return head


def write_head(request: Request) -> Fields:
    """Writes the head of a request as the server gets it, Host first in it."""
    return [
        (b":method", request.method),
        (b":scheme", b"https" if request.secure else b"http"),
        (b":authority", request.fields[0][1]),
        (b":path", request.target),
        *(field for field in request.fields if field[0] not in _ELSEWHERE),
    ]


def read_answer(fields: Fields) -> tuple[int, Fields]:
    """Reads the head of an answer: its status, and its fields.

    Raises:
        ValueError: It has no status that an answer has.
    """
    status = dict(fields).get(b":status", b"")
    if not _STATUS.fullmatch(status) or status == b"101":
        raise ValueError("its status is none")
    return int(status), [field for field in fields if not field[0].startswith(b":")]
