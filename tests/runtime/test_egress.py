"""The way out of a box, through the real forwarder: what its rules allow, from its first moment to its last."""

import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import kibo
import leftovers
from kibo import Allow, Box, Secret, action
from kibo.model.errors import ActionExited, InvalidInput
from kibo.runtime.layers.home import state_home
from searching import files_with

pytestmark = pytest.mark.runtime


class Page(BaseHTTPRequestHandler):
    tokens: list[str] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers["X-Token"])
        body = f"{self.headers['Host']}{self.path} {self.headers['X-Token']}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def reader(address: str) -> type[Box]:
    class Reader(Box):
        """Reads pages."""

        egress = [Allow("site.example", to=address)]

        def launch(self) -> None:
            self.launched = self.fetch("http://site.example/launch")

        def resume(self) -> None:
            self.resumed = self.fetch("http://site.example/resume")

        def fetch(self, url: str) -> str:
            request = urllib.request.Request(url, headers={"X-Token": os.environ.get("TOKEN", "")})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as error:
                return f"{error.code} {error.read().decode()}"

        @action
        def read(self, url: str) -> list[str]:
            return [self.launched, self.resumed, self.fetch(url)]

        @action
        def has_in_memory(self, first: str, second: str) -> bool:
            """Tell whether this process has the two behind one another, which only who asks has apart."""
            with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
                for line in maps:
                    begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                    if line.split()[1][0] != "r" or "[v" in line:
                        continue
                    memory.seek(begin)
                    pieces = memory.read(end - begin).split(first.encode())
                    if any(piece.startswith(second.encode()) for piece in pieces[1:]):
                        return True
            return False

        @action
        def die(self) -> None:
            os._exit(1)

    return Reader


def forwarder_descriptors() -> int:
    """Counts what the forwarder of this process has open."""
    for pid in leftovers.descendants(os.getpid()):
        if b"kibo.effects.gateway" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return len(os.listdir(f"/proc/{pid}/fd"))
    raise AssertionError("there is no forwarder")


def settled_descriptors() -> int:
    """The same, once it has not changed for a while: the forwarder hears of a box's end a moment after it."""
    count, since = forwarder_descriptors(), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.02)
        if (now := forwarder_descriptors()) != count:
            count, since = now, time.monotonic()
    return count


def test_a_box_reaches_what_its_rules_allow_from_launch_on(reader: type[Box]) -> None:
    with reader().spawn() as box:
        pages = box.read("http://site.example/action")
    assert pages == [f"site.example/{when} " for when in ("launch", "resume", "action")]


def test_the_way_out_is_open_before_a_fork_resumes_every_time(reader: type[Box]) -> None:
    for _ in range(50):
        with reader().spawn() as box:
            assert box.read("http://site.example/")[1] == "site.example/resume "


def test_what_no_rule_allows_is_refused_and_the_refusal_names_the_rule(
    reader: type[Box], address: str
) -> None:
    port = address.rpartition(":")[2]
    with reader().spawn() as box:
        *_, refusal = box.read(f"http://host.kibo:{port}/")
        assert refusal.startswith("403")
        assert f'Allow("host.kibo:{port}")' in refusal
        direct = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=3)"
        assert "ConnectionRefusedError" in box.exec(["python3", "-c", direct]).stderr


def test_a_box_without_rules_has_no_way_out_at_all() -> None:
    with Box().spawn() as box:
        assert "proxy" not in box.exec("env").stdout.lower()
        probe = "import socket; socket.create_connection(('127.0.0.1', 3128), timeout=3)"
        assert "ConnectionRefusedError" in box.exec(["python3", "-c", probe]).stderr


@pytest.mark.parametrize("end", ["destroyed", "killed"])
def test_a_box_that_has_ended_leaves_nothing_open_in_the_forwarder(reader: type[Box], end: str) -> None:
    reader().spawn().destroy()
    before = settled_descriptors()
    boxes = [reader().spawn() for _ in range(10)]
    assert forwarder_descriptors() >= before + 10
    for box in boxes:
        if end == "killed":
            with pytest.raises(ActionExited):
                box.die()
        else:
            box.destroy()
    assert settled_descriptors() == before


def test_a_secret_reaches_its_host_which_repeats_it_and_is_nowhere_in_the_box_nor_in_the_store(
    reader: type[Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithToken(reader):  # type: ignore[misc, valid-type]
        secrets = [Secret("TOKEN", hosts=["site.example"])]

    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(InvalidInput, match="the secret TOKEN has no value"):
        WithToken().spawn()
    first, second = "s3cret-", os.urandom(8).hex()
    monkeypatch.setenv("TOKEN", first + second)
    with kibo.branch("to have a store"), WithToken().spawn() as box:
        assert box.read("http://site.example/x")[2] == "site.example/x kibo-secret-TOKEN"
        assert Page.tokens[-1] == first + second
        assert "TOKEN=kibo-secret-TOKEN\n" in box.exec("env").stdout
        box.exec('curl -sS -H "X-Token: $TOKEN" -o /work/page http://site.example/y')
        assert Page.tokens[-1] == first + second
        everywhere = ["/work", "/home", "/tmp", "/run", "/var", "/etc", "/opt"]
        assert "/work/page" in box.exec(["grep", "-rslF", "kibo-secret-TOKEN", *everywhere]).stdout
        assert box.exec(["grep", "-rslF", second, *everywhere]).stdout == ""
        assert box.has_in_memory("kibo-secret", "-TOKEN")
        assert not box.has_in_memory(first, second)
        assert second not in box.logs()
    assert not files_with(second, below=state_home(), named="history.db*")
