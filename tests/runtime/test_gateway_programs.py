"""Programs in a box, as they come, against servers on loopback with certificates: none is told of the gateway."""

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import ssl
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from kibo.runtime.instance import Instance
from kibo.runtime.layers.home import state_home
from site_visitor import HOST, run, visitor

pytestmark = pytest.mark.runtime

#: What a program brings along that is not the system's, without asking a registry for it.
LIBRARIES = ("requests", "urllib3", "idna", "certifi", "charset_normalizer", "pip", "httpx2", "httpcore2")
LIBRARIES += ("h11", "anyio", "truststore", "typing_extensions")
#: Where npm keeps the part of Node that knows proxies, for versions of Node that do not bring it.
UNDICI = "/usr/lib/node_modules/npm/node_modules/undici"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server has: a page, a Python package, an npm package and a git repository."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "page").write_text("a page\n")
    _write_wheel(folder)
    _write_npm_package(folder)
    _write_repository(folder)
    return folder


def _write_wheel(folder: Path) -> None:
    index = folder / "simple" / "tiny"
    index.mkdir(parents=True)
    with zipfile.ZipFile(index / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    (index / "index.html").write_text('<a href="tiny-1.0-py3-none-any.whl">tiny-1.0-py3-none-any.whl</a>')


def _write_npm_package(folder: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        text = json.dumps({"name": "tiny-npm", "version": "1.0.0"}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    (folder / "tiny-npm.tgz").write_bytes(packed.getvalue())
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    dist = {"tarball": f"https://{HOST}/tiny-npm.tgz", "integrity": f"sha512-{digest}"}
    version = {"name": "tiny-npm", "version": "1.0.0", "dist": dist}
    described = {"name": "tiny-npm", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (folder / "tiny-npm").write_text(json.dumps(described))


def _write_repository(folder: Path) -> None:
    work = folder / "work"
    person = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    (work / "file").write_text("from git\n")
    subprocess.run(["git", "-C", str(work), "add", "."], check=True)
    subprocess.run(["git", *person, "-C", str(work), "commit", "-q", "-m", "one"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(folder / "repo.git")], check=True)
    subprocess.run(["git", "-C", str(folder / "repo.git"), "update-server-info"], check=True)


class Pages(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens: list[str | None] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers["X-Token"])
        super().do_GET()

    def do_POST(self) -> None:
        """Answers with what it was sent."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@pytest.fixture(scope="module")
def address(folder: Path, trust: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.issue_cert(HOST).configure_cert(context)
    handler = type("Served", (Pages,), {"__init__": _in_folder(folder)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _in_folder(folder: Path) -> object:
    def init(self: Pages, *args: object) -> None:
        http.server.SimpleHTTPRequestHandler.__init__(self, *args, directory=str(folder))  # type: ignore[arg-type]

    return init


@pytest.fixture(scope="module")
def trust() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def box(address: str, trust: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with visitor(address, trust, tmp_path_factory.mktemp("trust"), LIBRARIES) as box:
        yield box


def test_curl(box: Instance) -> None:
    assert run(box, "curl", "-sS", f"https://{HOST}/page") == "a page\n"
    sent = run(box, "curl", "-sS", "--data", "a=b", f"https://{HOST}/page")
    assert sent == "a=b"


def test_curl_is_told_which_rule_is_missing_or_what_is_wrong_with_a_server(box: Instance) -> None:
    refused = box.exec(["curl", "-sS", "https://elsewhere.example/"])
    assert refused.returncode != 0
    assert "403" in refused.stderr


def test_python_urllib(box: Instance) -> None:
    program = f"import urllib.request as r; print(r.urlopen('https://{HOST}/page').read())"
    assert run(box, "python3", "-c", program) == "b'a page\\n'\n"


def test_python_requests(box: Instance) -> None:
    program = "import sys; sys.path.insert(0, '/opt/tools'); import requests; s = requests.Session()\n"
    program += f"print([s.get('https://{HOST}/page').text for _ in range(3)])"
    assert run(box, "python3", "-c", program) == "['a page\\n', 'a page\\n', 'a page\\n']\n"


def test_python_httpx(box: Instance) -> None:
    """It reads every variable that names a proxy, and does not start where one is of a kind that it lacks."""
    program = "import sys; sys.path.insert(0, '/opt/tools'); import httpx2; "
    program += (
        f"print(httpx2.get('https://{HOST}/page', verify=__import__('ssl').create_default_context()).text)"
    )
    assert run(box, "python3", "-c", program) == "a page\n\n"


def test_curl_through_socks_is_opened_too(box: Instance) -> None:
    socks = ["curl", "-sS", "--socks5-hostname", "127.0.0.1:3128"]
    assert run(box, *socks, f"https://{HOST}/page") == "a page\n"
    refused = box.exec([*socks, "https://elsewhere.example/"])
    assert refused.returncode == 97  # SOCKS said no
    assert "(2)" in refused.stderr  # not allowed by a rule


def test_pip_download(box: Instance) -> None:
    program = "import sys; sys.path.insert(0, '/opt/tools'); from pip._internal.cli.main import main; "
    options = ["--isolated", "-q", "-d", "/tmp/got", "-i", f"https://{HOST}/simple"]
    program += f"sys.exit(main(['download', *{options}, 'tiny']))"
    run(box, "python3", "-c", program)
    assert run(box, "ls", "/tmp/got") == "tiny-1.0-py3-none-any.whl\n"


def test_git_clone(box: Instance) -> None:
    run(box, "git", "clone", "-q", f"https://{HOST}/repo.git", "/tmp/clone")
    assert run(box, "cat", "/tmp/clone/file") == "from git\n"


@pytest.mark.skipif(shutil.which("npm", path="/usr/bin") is None, reason="the host has no npm in /usr/bin")
def test_npm_install(box: Instance) -> None:
    run(box, "npm", "install", "--prefix", "/tmp/npm", "--registry", f"https://{HOST}/", "tiny-npm")
    assert json.loads(run(box, "cat", "/tmp/npm/node_modules/tiny-npm/package.json"))["version"] == "1.0.0"


@pytest.mark.skipif(not Path(UNDICI).is_dir(), reason="the host has no npm that brings undici")
def test_node_fetch(box: Instance) -> None:
    """Node's own, which takes proxies from the environment by itself from version 24 on; here it is told to."""
    program = f"""
    const {{EnvHttpProxyAgent, setGlobalDispatcher}} = require('{UNDICI}')
    if (+process.versions.node.split('.')[0] < 24) setGlobalDispatcher(new EnvHttpProxyAgent())
    const send = {{method: 'POST', body: 'from fetch'}}
    fetch('https://{HOST}/page').then(answer => answer.text())
      .then(page => fetch('https://{HOST}/page', send).then(answer => answer.text())
        .then(text => process.stdout.write(page + text)))
    """
    assert run(box, "node", "-e", program) == "a page\nfrom fetch"


@pytest.mark.skipif(shutil.which("node", path="/usr/bin") is None, reason="the host has no Node in /usr/bin")
def test_node_trusts_the_gateway(box: Instance) -> None:
    """Its `fetch` takes the proxy from the environment from version 24 on; older ones are asked by hand."""
    program = """
    const http = require('http'), https = require('https'), tls = require('tls')
    const show = answer => answer.on('data', data => process.stdout.write(data)).on('end', () => process.exit(0))
    const proxy = {host: '127.0.0.1', port: 3128, method: 'CONNECT', path: 'HOST:443'}
    http.request(proxy).on('connect', (_, socket) => {
      const createConnection = () => tls.connect({socket, servername: 'HOST'})
      https.get('https://HOST/page', {headers: {Host: 'HOST'}, createConnection}, show)
    }).end()
    """.replace("HOST", HOST)
    assert run(box, "node", "-e", program) == "a page\n"


def test_a_secret_reaches_its_host_within_tls(box: Instance) -> None:
    run(box, "sh", "-c", f'curl -sS -H "X-Token: $TOKEN" https://{HOST}/page')
    assert Pages.tokens[-1] == "s3cret value"


def test_the_authoritys_key_is_nowhere_in_a_box_and_the_hosts_trust_is_as_it_was(box: Instance) -> None:
    key = (state_home() / "authority" / "authority.pem").read_text()
    secret_line = key.splitlines()[1]
    found = box.exec(
        ["grep", "-rslF", secret_line, "/", "--exclude-dir=proc", "--exclude-dir=sys", "--exclude-dir=usr"]
    )
    assert found.stdout == ""
    certificate_line = key.split("-----BEGIN CERTIFICATE-----\n")[1].splitlines()[3]
    listed = run(box, "grep", "-rslF", certificate_line, "/etc/ssl/certs", "/opt/kibo/trust").split()
    assert sorted(listed) == ["/etc/ssl/certs/ca-certificates.crt", "/opt/kibo/trust/authority.pem"]
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    assert not bundle.exists() or certificate_line not in bundle.read_text()
    assert (
        "SSL_CERT_FILE" not in os.environ
        or certificate_line not in Path(os.environ["SSL_CERT_FILE"]).read_text()
    )
