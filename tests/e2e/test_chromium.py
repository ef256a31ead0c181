"""Chromium as it comes, in a box, against a server with a certificate of its own: it is told of no proxy and no key."""

import http.server
import os
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme
from examples.coffee.boxes import Browser, DebianBrowser

import leftovers
from kibo import Allow, Box
from kibo.box.inheritance import environment_of
from kibo.model.errors import HostUnsupported
from kibo.runtime.instance import Instance
from kibo.wiring import Runtime
from running_shop import ROOT

# The first run installs a browser, in a state directory that later runs find.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
HOME = ROOT / ".cache" / f"kibo-tests-{os.geteuid()}"
HOST = "site.example"
PAGE = b"""<p id=said>the server</p><script>
fetch('/more', {method: 'POST', body: 'a script'}).then(answer => answer.text())
  .then(text => { document.getElementById('said').textContent = text })
</script>"""


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(PAGE if self.path == "/" else b"")

    def do_POST(self) -> None:
        self.answer(b"heard " + self.rfile.read(int(self.headers["content-length"])))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@pytest.fixture(scope="module")
def trust() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def address(trust: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.issue_cert(HOST).configure_cert(context)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def box(address: str, trust: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    path = tmp_path_factory.mktemp("trust") / "servers.pem"
    trust.cert_pem.write_to_path(path)

    def reader(browser: type[Box]) -> Box:
        class Reader(Box):
            """Has a browser, which nothing has started."""

            env = environment_of(browser)
            egress = [Allow(HOST, to=address)]

        return Reader()

    before = set(leftovers.descendants(os.getpid()))
    with leftovers.adopt_orphans(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIBO_EXTRA_CA_FILE", str(path))
        runtime = Runtime(HOME)
        try:
            try:
                running = runtime.spawn(reader(Browser))
            except HostUnsupported:
                running = runtime.spawn(reader(DebianBrowser))
            with running:
                yield running
        finally:
            runtime.close()
        assert not leftovers.await_clean(HOME, os.getpid(), before, within_s=5.0)


def dump(box: Instance, url: str, *options: str) -> str:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=/tmp/profile"]
    done = box.exec([*command, "--virtual-time-budget=10000", *options, "--dump-dom", url], timeout_s=120)
    return str(done.stdout)


def test_a_page_and_what_its_script_asks_for_come_through_tls_that_the_gateway_opens(box: Instance) -> None:
    assert '<p id="said">heard a script</p>' in dump(box, f"https://{HOST}/")
    # And through SOCKS, which is no way around that.
    assert '<p id="said">heard a script</p>' in dump(
        box, f"https://{HOST}/", "--proxy-server=socks5://127.0.0.1:3128"
    )
