"""The forwarder's reading of requests, against whatever a box may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kibo.effects.http_head import Head, HeadError, SecretValue

pytestmark = pytest.mark.property

PIECES = [
    *(
        b"GET POST CONNECT http:// https:// shop.example :80 :443 : / // ? # @ \\ [::1] [ ] %00 %0d%0a".split()
    ),
    *(
        b"HTTP/1.1 HTTP/1.0 HTTP/2 Host: Host Content-Length: Transfer-Encoding: chunked Connection: close".split()
    ),
    *(b"kibo-secret-A Content-Type: application/json 1 -1 1e3".split()),
    *(b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"\x85", "é".encode(), b"\r\n\r\n"),
]
SECRETS = [SecretValue("kibo-secret-A", "one\r\nX: two", ("shop.example",))]
heads = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=25).map(b"".join)
likely = st.builds(
    lambda middle: b"GET http://shop.example/" + middle + b"\r\n\r\n",
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
)


@given(st.one_of(heads, likely))
def test_whatever_is_sent_is_refused_or_leaves_as_one_request_for_the_host_that_was_checked(
    data: bytes,
) -> None:
    try:
        head = Head.parse(data)
        host, port = head.destination()
        head.body_length()
    except HeadError:
        return
    if head.tunnel:
        return
    filled, _ = head.fill(SECRETS, b"")
    sent = filled.as_request()
    lines = sent.split(b"\r\n")
    assert sent.endswith(b"\r\n\r\n")
    assert lines[-2:] == [b"", b""]
    assert b"" not in lines[:-2]
    assert not any(c in line for line in lines for c in (b"\r", b"\n", b"\0"))
    hosts = [line for line in lines[1:] if line.lower().startswith(b"host:")]
    assert len(hosts) == 1
    assert hosts[0].lower().rstrip(b".").startswith(f"host: {host}".encode()) or host.startswith("::")
    assert 0 < port < 65536
    assert len(lines[0].split(b" ")) == 3
