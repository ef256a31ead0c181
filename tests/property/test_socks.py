"""Whatever bytes a box sends as SOCKS: what is understood is what was written, and nothing else is."""

import asyncio
import ipaddress
import itertools

from hypothesis import given
from hypothesis import strategies as st

from doors import GREETING, socks_request
from kibo.effects import socks
from kibo.effects.notices import MAX_CHARACTERS, printable
from kibo.effects.wires import Plain


class Sent:
    """A connection on which pieces come, and then the end; keeps what it was sent."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.pushed = b""
        self.answers = b""

    async def receive(self, patience_s: float | None = None) -> bytes:
        if self.pushed:
            data, self.pushed = self.pushed, b""
            return data
        return self._pieces.pop(0) if self._pieces else b""

    def unread(self, data: bytes) -> None:
        self.pushed = data + self.pushed

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        self.answers += data

    def rest(self) -> bytes:
        return self.pushed + b"".join(self._pieces)


def ask(sent: Sent) -> tuple[str, int]:
    plain: Plain = sent  # type: ignore[assignment]
    return asyncio.run(socks.asked(plain, 10))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


names = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,60}[A-Za-z0-9_])?", fullmatch=True)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
cuts = st.lists(st.integers(0, 400), max_size=8)


@given(
    st.one_of(names, addresses), st.integers(1, 65535), st.binary(max_size=40), st.binary(max_size=8), cuts
)
def test_what_was_written_is_understood_however_it_is_cut(
    host: str | ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    after: bytes,
    methods: bytes,
    places: list[int],
) -> None:
    offered = methods + b"\0"
    greeting = bytes([5, len(offered)]) + offered
    written = host if isinstance(host, str) else host.packed
    sent = Sent(cut(greeting + socks_request(written, port) + after, places))
    assert ask(sent) == (str(host).lower() if isinstance(host, str) else str(host), port)
    assert sent.answers == b"\5\0"
    assert sent.rest() == after


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda rest: GREETING + rest)), cuts)
def test_no_bytes_are_understood_but_a_whole_request_to_connect(said: bytes, places: list[int]) -> None:
    sent = Sent(cut(said, places))
    try:
        host, port = ask(sent)
    except (socks.SocksRefused, ConnectionResetError):
        return
    taken = said[: len(said) - len(sent.rest())]
    request = taken[2 + taken[1] :]
    assert 0 in taken[2 : 2 + taken[1]]
    assert request[:3] == b"\5\1\0"
    written = request[5:-2].decode() if request[3] == 3 else ipaddress.ip_address(request[4:-2])
    assert (str(written).lower().rstrip("."), int.from_bytes(request[-2:])) == (host, port)
    assert host.isascii()
    assert host.isprintable()
    assert not set(host) & set(' /@:?#"') or ":" in host


@given(st.text(max_size=3 * MAX_CHARACTERS))
def test_no_text_leaves_its_line_of_the_log(text: str) -> None:
    assert printable(text).isprintable()
    assert text.isprintable() <= (printable(text) == text)
