"""Metrics over HTTP: for this machine, and for no more clients at once than may be."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from kibo.model.errors import InvalidInput, StoreUnavailable
from kibo.model.limits import MAX_SCRAPES
from kibo.serve import scrapes
from kibo.serve.scrapes import Scrapes, address
from patience import until

pytestmark = pytest.mark.security


class Answers:
    """An application that answers once it may, or fails."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.asked = 0
        self.fails: Exception | None = None

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        self.asked += 1
        assert self.may.wait(20)
        if self.fails is not None:
            raise self.fails
        start("200 OK", [])
        return [b"kibo_runs 1\n"]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def served(answers: Answers) -> Iterator[Scrapes]:
    made = Scrapes("127.0.0.1", 0, answers)
    yield made
    answers.may.set()
    made.close()


def get(url: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_it_answers_to_addresses_and_localhost(served: Scrapes):
    for host in (None, "localhost", "localhost:9464", "127.0.0.1", "[::1]:80"):
        assert get(served.url, host) == (200, b"kibo_runs 1\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.x"]
)
def test_a_web_page_whose_name_was_made_to_lead_here_reads_nothing(
    host: str, served: Scrapes, answers: Answers
):
    assert get(served.url, host)[0] == 403
    assert answers.asked == 0


def test_one_more_client_than_may_be_is_hung_up_on_and_the_next_is_answered(
    served: Scrapes, answers: Answers
):
    answers.may.clear()
    found: list[tuple[int, bytes]] = []
    clients = [threading.Thread(target=lambda: found.append(get(served.url))) for _ in range(MAX_SCRAPES)]
    for each in clients:
        each.start()
    until(lambda: answers.asked == MAX_SCRAPES)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        get(served.url)
    answers.may.set()
    for each in clients:
        each.join()
    assert found == [(200, b"kibo_runs 1\n")] * MAX_SCRAPES
    until(lambda: _answers(served))


def _answers(served: Scrapes) -> bool:
    try:
        return get(served.url)[0] == 200
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return False  # the last one's thread has not quite ended


@pytest.mark.parametrize("says", ["nothing", "a byte now and then"])
def test_a_client_that_says_little_is_hung_up_on(
    says: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scrapes._Handler, "timeout", 0.2 if says == "nothing" else 20)
    monkeypatch.setattr(scrapes, "MAX_SCRAPE_S", 0.2 if says != "nothing" else 20)
    served = Scrapes("127.0.0.1", 0, answers)
    host, _, port = urlsplit(served.url).netloc.rpartition(":")
    with contextlib.closing(served), socket.create_connection((host, int(port)), timeout=10) as client:
        if says != "nothing":
            client.sendall(b"G")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert answers.asked == 0


def test_what_cannot_be_read_now_is_said_so(served: Scrapes, answers: Answers):
    answers.fails = StoreUnavailable("the store does not answer")
    assert get(served.url) == (503, b"the store does not answer\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_where_to_listen_is_this_machine_unless_another_address_is_given(text: str, found: tuple[str, int]):
    assert address(text) == found


@pytest.mark.parametrize(
    "text", ["", ":9464", "65536", "-1", "example.org:80", "127.0.0.1", "127.0.0.1:x", "٣"]
)
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(InvalidInput):
        address(text)


def test_an_address_that_is_taken_is_said_so(served: Scrapes, answers: Answers):
    port = urlsplit(served.url).port
    assert port is not None
    with pytest.raises(InvalidInput, match=str(port)):
        Scrapes("127.0.0.1", port, answers)


def test_it_serves_ipv6_where_the_host_has_it(answers: Answers):
    try:
        served = Scrapes("::1", 0, answers)
    except InvalidInput:
        pytest.skip("this host has no IPv6 loopback")
    with contextlib.closing(served):
        assert served.url.startswith("http://[::1]:")
        assert get(served.url)[0] == 200
