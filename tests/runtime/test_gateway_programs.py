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
from websockets.sync.server import ServerConnection, serve

from kibo.runtime.instance import Instance
from kibo.runtime.layers.home import state_home
from site_visitor import HOST, run, visitor

pytestmark = pytest.mark.runtime

#: What a program brings along that is not the system's, without asking a registry for it.
LIBRARIES = ("requests", "urllib3", "idna", "certifi", "charset_normalizer", "pip", "httpx2", "httpcore2")
LIBRARIES += ("h11", "anyio", "truststore", "typing_extensions", "websockets")
CHAT = "chat.example"
VALUE = "s3cret value"


def needs(program: str) -> pytest.MarkDecorator:
    """Skips a test where boxes, which have the system's programs, do not have one."""
    missing = shutil.which(program, path="/usr/bin") is None
    return pytest.mark.skipif(missing, reason=f"/usr/bin has no {program}: make setup installs it")


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
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(folder / "shared.git")], check=True)


class Pages(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens: list[str | None] = []
    #: The names and the passwords that it was told.
    users: list[str] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers["X-Token"])
        if self._user():
            self.users.append(self._user())
        if self.path.startswith("/git/"):
            self._git(b"")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        """Answers with what it was sent, or as git does."""
        body = self._body()
        if self.path.startswith("/git/"):
            self._git(body)
        else:
            self._answer(200, {}, body)

    def _git(self, body: bytes) -> None:
        """Has git's own program answer, as web servers have it (git-http-backend(1)), for one user."""
        if self._user() != f"ada:{VALUE}":
            self._answer(401, {"www-authenticate": 'Basic realm="git"'}, b"")
            return
        path, _, query = self.path.partition("?")
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.directory,
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "ada",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
        }
        command = ["git", "http-backend"]
        said = subprocess.run(command, input=body, env=variables, capture_output=True, check=True).stdout
        head, _, body = said.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._answer(int(fields.pop("Status", "200").split()[0]), fields, body)

    def _user(self) -> str:
        kind, _, credentials = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(credentials).decode() if kind == "Basic" else ""

    def _body(self) -> bytes:
        if self.headers["transfer-encoding"] != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**fields, "content-length": str(len(body))}.items():
            self.send_header(name, value)
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
def heard() -> list[str | bytes]:
    """What the chat was told."""
    return []


@pytest.fixture(scope="module")
def chat(trust: trustme.CA, heard: list[str | bytes]) -> Iterator[str]:
    """A server of WebSockets that repeats what it is told, and whose token it was given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.issue_cert(CHAT).configure_cert(context)

    def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        connection.send(f"hello, {connection.request.headers['X-Token']}")
        for message in connection:
            heard.append(message)
            connection.send(message)

    with serve(talk, "127.0.0.1", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def box(
    address: str, chat: str, trust: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    with visitor(address, trust, tmp_path_factory.mktemp("trust"), LIBRARIES, {CHAT: chat}) as box:
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
    index = f"https://ada:kibo-secret-TOKEN@{HOST}/simple"
    options = ["--isolated", "-q", "-d", "/tmp/got", "-i", index]
    program += f"sys.exit(main(['download', *{options}, 'tiny']))"
    run(box, "python3", "-c", program)
    assert run(box, "ls", "/tmp/got") == "tiny-1.0-py3-none-any.whl\n"
    assert Pages.users[-1] == f"ada:{VALUE}"


def test_git_clone(box: Instance) -> None:
    run(box, "git", "clone", "-q", f"https://{HOST}/repo.git", "/tmp/clone")
    assert run(box, "cat", "/tmp/clone/file") == "from git\n"


def test_git_push_and_fetch_with_a_password(box: Instance, folder: Path) -> None:
    """More than git sends in one piece, so that it does not know how long it is."""
    script = f"""
    git clone -q https://ada:$TOKEN@{HOST}/git/shared.git /tmp/one
    git clone -q https://ada:$TOKEN@{HOST}/git/shared.git /tmp/two
    cd /tmp/one
    head -c 3000000 /dev/urandom > large
    git add large
    git -c user.name=t -c user.email=t@example.org commit -q -m two
    git push -q origin main
    git -C /tmp/two fetch -q
    git rev-parse HEAD; git -C /tmp/two rev-parse origin/main
    """
    pushed, fetched = run(box, "sh", "-ec", script).split()
    there = ["git", "-C", str(folder / "shared.git"), "rev-parse", "main"]
    assert pushed == fetched == subprocess.run(there, capture_output=True, text=True).stdout.strip()
    refused = box.exec(["git", "ls-remote", f"https://bob:x@{HOST}/git/shared.git"], timeout_s=50)
    assert "Authentication failed" in refused.stderr


def test_a_websocket_is_told_the_value_of_a_secret_and_never_tells_it(
    box: Instance, heard: list[str | bytes]
) -> None:
    program = f"""
import json, os, sys
sys.path.insert(0, '/opt/tools')
from websockets.sync.client import connect
token = os.environ['TOKEN']
said = ['I am ' + token, json.dumps({{'token': token}}), 'x' * 300_000 + token, ['in ', token[:5], token[5:]]]
with connect('wss://{CHAT}/talk', additional_headers={{'X-Token': token}}) as chat:
    print(chat.recv() == 'hello, ' + token)
    for message in said:
        chat.send(message)
        print(chat.recv() == ''.join(message))
    chat.send(token.encode())
    print(chat.recv() == token.encode())
"""
    assert run(box, "python3", "-c", program).split() == ["True"] * 6
    assert heard == [
        f"I am {VALUE}", f'{{"token": "{VALUE}"}}', "x" * 300_000 + VALUE, f"in {VALUE}", b"kibo-secret-TOKEN"
    ]  # fmt: skip


@needs("npm")
def test_npm_install(box: Instance) -> None:
    run(box, "npm", "install", "--prefix", "/tmp/npm", "--registry", f"https://{HOST}/", "tiny-npm")
    assert json.loads(run(box, "cat", "/tmp/npm/node_modules/tiny-npm/package.json"))["version"] == "1.0.0"


@needs("node")
def test_node_fetch(box: Instance) -> None:
    program = f"""
    const send = {{method: 'POST', body: 'from fetch'}}
    fetch('https://{HOST}/page').then(answer => answer.text())
      .then(page => fetch('https://{HOST}/page', send).then(answer => answer.text())
        .then(text => process.stdout.write(page + text)))
    """
    assert run(box, "node", "-e", program) == "a page\nfrom fetch"


@needs("node")
def test_node_fetch_is_refused_what_no_rule_allows_and_reaches_what_the_box_serves_itself(
    box: Instance,
) -> None:
    program = """
    const own = require('http').createServer((request, answer) => answer.end('its own')).listen(0, '127.0.0.1', () => {
      fetch('https://elsewhere.example/').catch(error => console.log(error.message, error.cause.message))
        .then(() => fetch(`http://127.0.0.1:${own.address().port}/`)).then(answer => answer.text())
        .then(text => { console.log(text); process.exit() })
    })
    """
    refused, own = run(box, "node", "-e", program).splitlines()
    assert refused.startswith("fetch failed")
    assert own == "its own"


@needs("node")
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
    assert Pages.tokens[-1] == VALUE


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
