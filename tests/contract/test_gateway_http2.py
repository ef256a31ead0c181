"""HTTP/2 through the gateway as its own process: each stream is a request, for which all holds that holds for any."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import h11
import pytest
import trustme
from h2.errors import ErrorCodes

import databases
from doors import Proxy, read_until
from kibo.box.policy import Allow, Deny, Secret
from kibo.branch.history import History
from kibo.branch.records import BranchRecord
from kibo.effects.bells import ringing
from kibo.effects.forwarder import Forwarder
from kibo.effects.ledger import Ledger
from kibo.effects.recordings import Recordings
from kibo.effects.taping import RecordingTape, ReplayTape
from kibo.model.asker import NOBODY, Asker
from kibo.model.errors import RequestUnknown
from kibo.model.limits import MAX_EFFECT_BODY_BYTES
from kibo.store.database import Store
from patience import until
from two_protocols import HOST, Answered, Heard, Said, Shop, program, speaking

pytestmark = pytest.mark.contract

VALUE = 'b&"ns of the secret'
BOTH = ("h2", "http/1.1")


class House:
    """A state directory with its history, the gateway of a process that uses it, and shops."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.stack = ExitStack()
        self.trust = trustme.CA()
        self.trust.cert_pem.write_to_path(place / "servers.pem")
        url = databases.new_history(place)
        self.store = self.stack.enter_context(Store.open(url))
        self.history, self.ledger = History(self.store), Ledger(self.store)
        self.gateway = self.stack.enter_context(
            Forwarder.start(
                place / "authority", {"PASSWORD": VALUE}, extra_trust=place / "servers.pem", store=url
            )
        )
        self.secret = Secret("PASSWORD", hosts=[HOST])
        self.boxes = 0

    def shop(self, *protocols: str) -> Shop:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.trust.issue_cert(HOST, "other.example").configure_cert(tls)
        shop = Shop(tls, *protocols)
        self.stack.callback(shop.close)
        return shop

    def box(self, *rules: Allow | Deny, asker: Asker = NOBODY) -> Proxy:
        self.boxes += 1
        return Proxy(self.gateway, f"inst_{self.boxes}", list(rules), [self.secret], asker)

    def to(self, shop: Shop, asker: Asker = NOBODY) -> Proxy:
        return self.box(Allow(HOST, to=shop.address), asker=asker)

    def fork(self) -> tuple[BranchRecord, BranchRecord]:
        main = self.history.create()
        (fork,) = self.history.fork(main.id)
        return main, fork

    def commit(self, main: BranchRecord, fork: BranchRecord) -> None:
        self.history.commit(fork.id)
        with self.gateway.settle(fork.id, Asker(main.id, main.id)) as told:
            told.settimeout(20)
            assert told.recv(1) == b""

    def states(self) -> list[str]:
        return [effect.state for effect in self.ledger.listed()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """For what leaves nothing behind."""
    made = House(tmp_path_factory.mktemp("house"))
    with made.stack:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    with made.stack:
        yield made


@pytest.fixture(scope="module", params=BOTH)
def shop(request: pytest.FixtureRequest, house: House) -> Shop:
    return house.shop(request.param)


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> None:
    if "shop" in request.fixturenames:
        shop = request.getfixturevalue("shop")
        shop.heard.clear()
        shop.answers = lambda _: Said()


# -- each side speaks what it can


@pytest.mark.parametrize("client", BOTH)
def test_both_sides_speak_what_they_offer_whatever_the_other_does(
    house: House, shop: Shop, client: str
) -> None:
    proxy = house.to(shop)
    answer = ask(house, proxy, client, "/menu?a=1", (b"x-field", b"one"))
    assert (answer.status, answer.body) == (200, b"ok")
    (heard,) = shop.heard
    assert (heard.protocol,) == shop.speaks
    assert (heard.method, heard.path) == (b"GET", b"/menu?a=1")
    assert heard.fields == [(b"host", HOST.encode()), (b"x-field", b"one")]


def ask(
    house: House,
    proxy: Proxy,
    client: str,
    path: str,
    *fields: tuple[bytes, bytes],
    body: bytes | None = None,
) -> Answered:
    """Asks by either protocol."""
    method = "GET" if body is None else "POST"
    if client == "h2":
        length = [] if body is None else [(b"content-length", b"%d" % len(body))]
        with program(house.gateway, proxy) as talk:
            return talk.ask(path, *fields, *length, method=method, body=body)
    with speaking(house.gateway, proxy, "http/1.1") as secure:
        assert secure.selected_alpn_protocol() == "http/1.1"
        plain = h11.Connection(h11.CLIENT)
        length = [] if body is None else [(b"content-length", b"%d" % len(body))]
        head = h11.Request(method=method, target=path, headers=[(b"host", HOST.encode()), *fields, *length])
        secure.sendall(plain.send(head) or b"")
        secure.sendall(plain.send(h11.Data(data=body or b"")) or b"")
        secure.sendall(plain.send(h11.EndOfMessage()) or b"")
        answer = Answered()
        while not answer.ended:
            event = plain.next_event()
            if event is h11.NEED_DATA:
                plain.receive_data(secure.recv(65536))
            elif isinstance(event, h11.InformationalResponse):
                answer.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status, answer.fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage), event
                answer.trailers, answer.ended = list(event.headers), True
        return answer


@pytest.mark.parametrize("client", BOTH)
def test_bodies_interim_answers_and_trailers_pass_both_ways(house: House, shop: Shop, client: str) -> None:
    body = os.urandom(300_000)
    shop.answers = lambda heard: Said(
        201, [(b"x-is", b"here")], heard.body[::-1], [(b"grpc-status", b"0")], [103], unmeasured=True
    )
    proxy = house.box(Allow(HOST, to=shop.address, effect="read"))
    if client == "h2":
        with program(house.gateway, proxy) as talk:
            number = talk.open("/up", (b"te", b"trailers"), method="POST", more=True)
            talk.upload(number, body, end=False)
            talk.http.send_headers(number, [(b"x-sum", b"1")], end_stream=True)
            talk.push()
            answer = talk.wait(number)
        assert shop.heard[0].trailers == [(b"x-sum", b"1")]
        if shop.heard[0].protocol == "h2":
            assert shop.heard[0].values(b"te") == [b"trailers"]
    else:
        answer = ask(house, proxy, client, "/up", body=body)
    assert (shop.heard[0].body == body) is True
    assert (answer.status, bytes(answer.body) == body[::-1], answer.interim) == (201, True, [103])
    assert answer.trailers == [(b"grpc-status", b"0")]
    assert (b"x-is", b"here") in answer.fields


def test_requests_side_by_side_share_a_connection_to_a_server_that_speaks_http_2(house: House) -> None:
    shop = house.shop("h2")
    together = threading.Barrier(20)

    def answer(heard: Heard) -> Said:
        together.wait(10)
        return Said(body=heard.path)

    shop.answers = answer
    with program(house.gateway, house.to(shop)) as talk:
        asked = {talk.open(f"/{each}"): f"/{each}" for each in range(20)}
        for number, path in asked.items():
            assert talk.wait(number).body == path.encode()
    assert shop.connections == 1


def test_a_websocket_is_asked_for_by_http_1_1_also_where_a_server_speaks_http_2(house: House) -> None:
    shop = house.shop()
    proxy = house.box(Allow(HOST, to=shop.address, effect="read"))
    assert ask(house, proxy, "http/1.1", "/").status == 200
    upgrade = b"GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with speaking(house.gateway, proxy, "http/1.1") as secure:
        secure.sendall(upgrade)
        assert read_until(secure, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert [heard.protocol for heard in shop.heard] == ["h2", "http/1.1"]
    assert shop.heard[1].values(b"upgrade") == [b"websocket"]


def test_http_2_without_tls_or_without_having_been_agreed_on_is_refused_by_name(
    house: House, shop: Shop
) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    proxy = house.box(Allow(HOST, to=shop.address), Allow(f"{HOST}:80", to=shop.address))
    with proxy.connect() as connection:
        connection.sendall(preface)
        assert read_until(connection, b"alone").startswith(b"HTTP/1.1 505")
    with proxy.tunnel(f"{HOST}:80") as connection:
        connection.sendall(preface)
        assert read_until(connection, b"alone").startswith(b"HTTP/1.1 505")
    with speaking(house.gateway, proxy, "http/1.1") as secure:
        secure.sendall(preface)
        assert read_until(secure, b"alone").startswith(b"HTTP/1.1 505")
    assert "HTTP/2 is spoken within TLS alone" in proxy.await_log("HTTP/2 is spoken")


# -- policy


def test_rules_hold_for_each_stream_and_a_refusal_ends_no_other(house: House, shop: Shop) -> None:
    rule = Allow(HOST, to=shop.address, methods=("GET",), paths=("/menu", "/menu/*"))
    proxy = house.box(rule)
    with program(house.gateway, proxy) as talk:
        assert talk.ask("/menu").status == 200
        for method, path in (("POST", "/menu"), ("GET", "/admin"), ("GET", "/menu/../admin")):
            refused = talk.ask(path, method=method)
            assert refused.status == 403
            assert b'methods=("GET",), paths=("/menu", "/menu/*")' in refused.body
        overridden = talk.ask("/menu", (b"x-http-method-override", b"DELETE"))
        assert b"does not cover GET/DELETE /menu" in overridden.body
        bare = talk.ask("/admin", method="HEAD")
        assert (bare.status, bare.body) == (403, b"")
        large = talk.open("/admin", method="POST", more=True)
        talk.upload(large, bytes(60_000), end=False)  # whoever is refused may be busy still
        assert talk.wait(large).status == 403
        assert talk.ask("/menu/1").status == 200
    assert [heard.path for heard in shop.heard] == [b"/menu", b"/menu/1"]
    proxy.await_log("does not cover GET/DELETE /menu")


def test_a_connection_is_for_one_host_also_when_it_is_used_again(house: House, shop: Shop) -> None:
    other = Allow("other.example", to=shop.address)
    proxy = house.box(Allow(HOST, to=shop.address), other)
    with program(house.gateway, proxy) as talk:
        for authority in ("other.example", f"{HOST}:444", "shop.example.evil"):
            refused = talk.ask(authority=authority)
            assert (refused.status, authority.encode() in refused.body) == (421, True)
        assert talk.ask(authority=f"{HOST}:443").status == 200
    with program(house.gateway, proxy, host=HOST, asked="other.example") as talk:
        for authority in (HOST, "other.example"):
            refused = talk.ask(authority=authority)
            assert refused.status == 421
            assert b"TLS asked for other.example" in refused.body
    assert len(shop.heard) == 1


@pytest.mark.parametrize("client", BOTH)
def test_secrets_go_into_urls_fields_and_bodies_of_their_hosts(house: House, shop: Shop, client: str) -> None:
    rules = [Allow(host, to=shop.address, effect="read") for host in (HOST, "other.example")]
    form = (b"content-type", b"application/x-www-form-urlencoded")
    place = house.secret.placeholder
    proxy = house.box(*rules)
    said = ask(
        house, proxy, client, f"/?q={place}", (b"x-key", place.encode()), form, body=f"p={place}".encode()
    )
    assert said.status == 200
    (heard,) = shop.heard
    assert heard.path == b"/?q=b%26%22ns%20of%20the%20secret"
    assert heard.values(b"x-key") == [VALUE.encode()]
    assert heard.body == b"p=b%26%22ns+of+the+secret"
    assert heard.values(b"content-length") == [b"%d" % len(heard.body)]
    with program(house.gateway, proxy, host="other.example") as talk:
        talk.ask(f"/?q={place}", (b"x-key", place.encode()), authority="other.example")
    assert shop.heard[1].values(b"x-key") == [place.encode()]


def test_secrets_go_into_bodies_that_say_no_length_however_long_they_turn_out_to_be(
    house: House, shop: Shop
) -> None:
    json, place = (b"content-type", b"application/json"), house.secret.placeholder.encode()
    read = house.box(Allow(HOST, to=shop.address, effect="read"))
    for proxy in (read, house.to(shop)):
        with program(house.gateway, proxy) as talk:
            for size in (0, 100_000):
                body = b'"%b%b"' % (place, b"x" * size)
                number = talk.open("/", json, method="POST", more=True)
                talk.upload(number, body)
                assert talk.wait(number).status == 200
                value = VALUE.replace('"', '\\"').encode()
                assert (shop.heard[-1].body == body.replace(place, value)) is True


# -- effects


def test_a_held_stream_holds_up_no_other_of_its_connection_and_is_sent_at_the_commit(fresh: House) -> None:
    shop = fresh.shop("h2")
    shop.answers = lambda heard: Said(body=b"paid " + heard.body)
    main, fork = fresh.fork()
    proxy = fresh.to(shop, Asker(fork.id, main.id, holds=True))
    with program(fresh.gateway, proxy) as talk:
        paying = [talk.open("/pay", method="POST", body=b"card=%d" % each) for each in range(3)]
        until(lambda: fresh.states() == ["held"] * 3)
        assert talk.ask("/menu").status == 200
        assert [heard.path for heard in shop.heard] == [b"/menu"]
        fresh.commit(main, fork)
        assert [talk.wait(each).body for each in paying] == [b"paid card=%d" % each for each in range(3)]
    assert [heard.body for heard in shop.heard[1:]] == [b"card=0", b"card=1", b"card=2"]
    assert all(len(heard.values(b"idempotency-key")) == 1 for heard in shop.heard[1:])
    assert fresh.states() == ["done"] * 3


def test_who_resets_a_held_stream_or_leaves_takes_the_request_back(fresh: House) -> None:
    shop = fresh.shop("h2")
    main, fork = fresh.fork()
    proxy = fresh.to(shop, Asker(fork.id, main.id, holds=True))
    with program(fresh.gateway, proxy) as talk:
        first, _, third = (talk.open(f"/pay/{each}", method="POST", body=b"card=1") for each in range(3))
        until(lambda: fresh.states() == ["held"] * 3)
        talk.http.reset_stream(first, ErrorCodes.CANCEL)
        talk.push()
        until(lambda: sorted(fresh.states()) == ["dropped", "held", "held"])
        assert third
    until(lambda: fresh.states() == ["dropped"] * 3)
    fresh.commit(main, fork)
    assert shop.heard == []


def test_a_request_is_recorded_alike_whichever_protocol_brought_it(fresh: House) -> None:
    shop = fresh.shop("h2")
    proxy = fresh.to(shop)
    for client in BOTH:
        assert ask(fresh, proxy, client, "/pay", (b"x-a", b"1"), body=b"card=1").status == 200
    one, two = (fresh.ledger.get(effect.id) for effect in fresh.ledger.listed())
    assert (one.request, one.body) == (two.request, two.body)
    assert one.outcome is not None
    assert (one.outcome.status, one.outcome.body) == (200, b"ok")


def test_trailers_of_what_waits_are_kept_with_it(fresh: House) -> None:
    shop = fresh.shop("h2")
    main, fork = fresh.fork()
    with program(fresh.gateway, fresh.to(shop, Asker(fork.id, main.id, holds=True))) as talk:
        number = talk.open("/pay", method="POST", more=True)
        talk.upload(number, b"card=1", end=False)
        talk.http.send_headers(number, [(b"x-sum", b"1")], end_stream=True)
        talk.push()
        until(lambda: fresh.states() == ["held"])
        fresh.commit(main, fork)
        assert talk.wait(number).status == 200
    assert (bytes(shop.heard[0].body), shop.heard[0].trailers) == (b"card=1", [(b"x-sum", b"1")])


def test_what_was_sent_with_a_key_is_not_sent_again_by_another_stream(fresh: House) -> None:
    shop = fresh.shop("h2")
    shop.answers = lambda _: Said(body=b"once")
    key = (b"idempotency-key", b"k1")
    with program(fresh.gateway, fresh.to(shop)) as talk:
        asked = [talk.open("/pay", key, method="POST", body=b"card=1") for _ in range(5)]
        assert [talk.wait(each).body for each in asked] == [b"once"] * 5
    assert len(shop.heard) == 1


def test_a_person_approves_a_stream_while_others_pass(fresh: House) -> None:
    shop = fresh.shop("h2")
    pay = Allow(HOST, to=shop.address, paths=("/pay",), approve=True)
    proxy = fresh.box(pay, Allow(HOST, to=shop.address))
    with program(fresh.gateway, proxy) as talk:
        paying = talk.open("/pay", method="POST", body=b"card=1")
        until(lambda: fresh.states() == ["asking"])
        assert talk.ask("/menu").status == 200
        (effect,) = fresh.ledger.listed()
        exact = fresh.ledger.get(effect.id)
        assert exact.body == b"card=1"
        with ringing(fresh.place / "gateways"):
            fresh.ledger.approve(effect.id, digest=effect.digest, by="ada (uid 1)")
        assert talk.wait(paying).status == 200


def test_traffic_is_recorded_and_replayed_whichever_protocols_it_had(fresh: House) -> None:
    shop = fresh.shop("h2")
    shop.answers = lambda heard: Said(fields=[(b"x-n", b"1")], body=heard.path + heard.body, unmeasured=True)
    recordings = Recordings(fresh.place)
    tape = RecordingTape(fresh.gateway, recordings, "it")
    body = b"card=1"
    for client, path in zip(BOTH, ("/a", "/b"), strict=True):
        for sent in (None, body):
            assert ask(fresh, fresh.to(shop, Asker(tape=tape.id)), client, path, body=sent).status == 200
    tape.close()
    asked = len(shop.heard)
    replay = ReplayTape(fresh.gateway, recordings, "it")
    for client, path in zip(reversed(BOTH), ("/a", "/b"), strict=True):
        for sent in (None, body):
            answer = ask(fresh, fresh.to(shop, Asker(tape=replay.id)), client, path, body=sent)
            assert answer.body == path.encode() + (sent or b"")
            assert (b"x-n", b"1") in answer.fields
    unknown = ask(fresh, fresh.to(shop, Asker(tape=replay.id)), "h2", "/c")
    assert unknown.status == 599
    with pytest.raises(RequestUnknown):
        replay.close()
    assert (asked, len(shop.heard)) == (4, 4)


# -- how much it takes


def test_a_body_as_long_as_may_be_is_held_and_one_longer_is_refused(fresh: House) -> None:
    shop = fresh.shop("h2")
    main, fork = fresh.fork()
    body = os.urandom(MAX_EFFECT_BODY_BYTES)
    with program(fresh.gateway, fresh.to(shop, Asker(fork.id, main.id, holds=True))) as talk:
        whole, more = (talk.open("/pay", method="POST", more=True) for _ in range(2))
        talk.upload(whole, body)
        talk.upload(more, body + b"x")
        assert talk.wait(more).status == 413
        until(lambda: fresh.states() == ["held"])
        fresh.commit(main, fork)
        assert talk.wait(whole).status == 200
    assert (shop.heard[0].body == body) is True


def test_memory_stays_flat_with_the_size_of_bodies_either_way(house: House, shop: Shop) -> None:
    size = 30_000_000
    shop.answers = lambda heard: Said(body=bytes(size) if heard.path == b"/large" else b"ok")
    proxy = house.box(Allow(HOST, to=shop.address, effect="read"))
    with program(house.gateway, proxy, {4: 1 << 20}) as talk:
        talk.http.increment_flow_control_window(1 << 20)
        talk.ask("/menu")
        before = peak(house.gateway.pid)
        number = talk.open("/large")
        time.sleep(0.3)  # for a server that runs ahead of whoever reads
        assert len(talk.wait(number).body) == size
        up = talk.open("/up", method="POST", more=True)
        talk.upload(up, bytes(size))
        assert talk.wait(up).status == 200
    assert len(shop.heard[2].body) == size
    assert peak(house.gateway.pid) - before < 16_000_000


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_client_that_takes_nothing_holds_up_no_other_stream(house: House, shop: Shop) -> None:
    shop.answers = lambda heard: Said(body=bytes(3_000_000) if heard.path == b"/large" else b"ok")
    with program(house.gateway, house.to(shop), {4: 1000}) as talk:
        talk.reads = False
        stuck = [talk.open("/large") for _ in range(20)]
        for _ in range(5):
            assert talk.ask("/menu").body == b"ok"
        assert all(len(talk.answers[each].body) <= 1000 for each in stuck)


# -- what breaks


def test_what_a_server_resets_is_told_and_what_it_breaks_off_is_reset(house: House) -> None:
    shop = house.shop("h2")
    said: dict[bytes, Said] = {
        b"/no": Said(body=b"", reset=ErrorCodes.INTERNAL_ERROR),
        b"/half": Said(body=b"half", reset=ErrorCodes.INTERNAL_ERROR, unmeasured=True),
    }
    shop.answers = lambda heard: said.get(heard.path, Said())
    with program(house.gateway, house.to(shop)) as talk:
        refused = talk.ask("/no")
        assert refused.status == 502
        assert b"INTERNAL_ERROR" in refused.body
        broken = talk.ask("/half")
        assert (broken.status, broken.ended) == (200, False)
        assert broken.reset == ErrorCodes.INTERNAL_ERROR
        assert talk.ask("/menu").status == 200
    assert shop.connections == 1


def test_an_effect_that_a_server_resets_is_in_doubt_and_is_not_repeated(fresh: House) -> None:
    shop = fresh.shop("h2")
    shop.answers = lambda heard: Said(body=b"", reset=ErrorCodes.INTERNAL_ERROR)
    with program(fresh.gateway, fresh.to(shop)) as talk:
        refused = talk.ask("/pay", method="POST", body=b"card=1")
    assert refused.status == 502
    assert b"kibo effects show" in refused.body
    assert fresh.states() == ["in_doubt"]
    assert len(shop.heard) == 1


def test_a_server_that_refuses_a_stream_unheard_is_asked_once_more(house: House) -> None:
    shop = house.shop("h2")
    times: list[bytes] = []

    def answer(heard: Heard) -> Said:
        times.append(heard.path)
        return Said(body=b"", reset=ErrorCodes.REFUSED_STREAM) if times == [b"/", b"/a"] else Said()

    shop.answers = answer
    with program(house.gateway, house.to(shop)) as talk:
        assert talk.ask("/").status == 200
        assert talk.ask("/a").status == 200
    assert times == [b"/", b"/a", b"/a"]


def test_a_server_that_says_goodbye_ends_what_it_has_heard_and_the_next_goes_elsewhere(house: House) -> None:
    shop = house.shop("h2")
    shop.goes_away_after = 1
    body = bytes(500_000)
    shop.answers = lambda _: Said(body=body)
    with program(house.gateway, house.to(shop)) as talk:
        for _ in range(3):
            assert len(talk.ask().body) == len(body)
    assert shop.connections == 3


def test_a_client_that_leaves_has_the_servers_stream_reset(house: House) -> None:
    shop = house.shop("h2")
    shop.answers = lambda heard: Said(body=bytes(50_000_000) if heard.path == b"/large" else b"ok")
    proxy = house.to(shop)
    with program(house.gateway, proxy, {4: 100_000}) as talk:
        talk.reads = False
        number = talk.open("/large")
        while len(talk.answers[number].body) < 60_000:
            assert talk.hear()
        talk.http.reset_stream(number, ErrorCodes.CANCEL)
        talk.http.increment_flow_control_window(100_000)
        talk.push()
        assert talk.ask("/next").status == 200
    assert shop.connections == 1
