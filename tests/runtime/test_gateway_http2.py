"""Programs in a box that speak HTTP/2 as they come, against a server that does: Node's, which is nghttp2."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import trustme

from kibo.runtime.instance import Instance
from site_visitor import HOST, run, visitor

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(
        shutil.which("node", path="/usr/bin") is None, reason="the host has no Node in /usr/bin"
    ),
]

#: What httpx brings along for HTTP/2.
LIBRARIES = (
    "httpx2",
    "httpcore2",
    "h2",
    "hpack",
    "hyperframe",
    "h11",
    "anyio",
    "truststore",
    "idna",
    "certifi",
)
LIBRARIES += ("typing_extensions",)
#: Says of each request how it came, and gives its trailers back.
SERVER = r"""
const http2 = require('http2'), fs = require('fs')
const [key, cert] = process.argv.slice(1).map(path => fs.readFileSync(path))
const server = http2.createSecureServer({key, cert, allowHTTP1: true})
server.on('request', (asked, answer) => {
  let size = 0, text = ''
  asked.on('data', data => { size += data.length; if (size < 1000) text += data })
  asked.on('end', () => {
    if (asked.url === '/large') {
      answer.writeHead(200, {'content-length': 40000000})
      const piece = Buffer.alloc(1000000)
      let left = 40
      const more = () => {
        while (left-- > 0) if (!answer.write(piece)) return answer.once('drain', more)
        answer.end()
      }
      return more()
    }
    if (asked.httpVersion === '2.0') answer.addTrailers({'grpc-status': '0'})
    answer.end(JSON.stringify({version: asked.httpVersion, method: asked.method, url: asked.url, size, text,
      token: asked.headers['x-token'] || '', te: asked.headers.te || '',
      right: asked.headers['x-token'] && asked.headers['x-token'] === 's3cret value'}))
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, trust: trustme.CA) -> Iterator[str]:
    place = tmp_path_factory.mktemp("server")
    issued = trust.issue_cert(HOST)
    issued.private_key_pem.write_to_path(place / "key.pem")
    issued.cert_chain_pems[0].write_to_path(place / "cert.pem")
    command = ["node", "-e", SERVER, str(place / "key.pem"), str(place / "cert.pem")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        yield f"127.0.0.1:{int(node.stdout.readline())}"
        node.kill()


@pytest.fixture(scope="module")
def trust() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def box(address: str, trust: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with visitor(address, trust, tmp_path_factory.mktemp("trust"), LIBRARIES) as box:
        yield box


@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl(box: Instance, option: str, version: str) -> None:
    curl = ["curl", "-sS", option, "-w", "\n%{http_version}"]
    said, spoken = run(box, *curl, f"https://{HOST}/a?b=c").rsplit("\n", 1)
    assert spoken == version
    assert json.loads(said) | {"text": ""} == {
        "version": "2.0", "method": "GET", "url": "/a?b=c", "size": 0, "text": "", "token": "", "te": ""
    }  # fmt: skip
    several = run(box, *curl, "-Z", "--data", "a=b", *[f"https://{HOST}/{each}" for each in range(20)])
    assert several.count('"text":"a=b"') == 20
    large = run(
        box, "curl", "-sS", option, "-o", "/dev/null", "-w", "%{size_download}", f"https://{HOST}/large"
    )
    assert large == "40000000"
    refused = run(box, *curl, "-H", "Host: elsewhere.example", f"https://{HOST}/")
    assert "A connection is for one host" in refused


def test_curl_sends_a_large_file(box: Instance) -> None:
    run(box, "sh", "-c", "head -c 20000000 /dev/zero > /tmp/large")
    said = run(box, "curl", "-sS", "--http2", "--data-binary", "@/tmp/large", f"https://{HOST}/up")
    assert json.loads(said)["size"] == 20_000_000


def test_python_httpx(box: Instance) -> None:
    program = f"""
import ssl, sys; sys.path.insert(0, '/opt/tools'); import httpx2
with httpx2.Client(http2=True, verify=ssl.create_default_context()) as client:
    for number in range(3):
        answer = client.post('https://{HOST}/%d' % number, content=b'x' * 100000)
        print(answer.http_version, answer.json()['version'], answer.json()['size'])
"""
    assert run(box, "python3", "-c", program) == "HTTP/2 2.0 100000\n" * 3


def test_node_with_streams_side_by_side_trailers_and_a_secret(box: Instance) -> None:
    program = """
    const http = require('http'), http2 = require('http2'), tls = require('tls')
    http.request({host: '127.0.0.1', port: 3128, method: 'CONNECT', path: 'HOST:443'}).on('connect', (_, socket) => {
      const createConnection = () => tls.connect({socket, servername: 'HOST', ALPNProtocols: ['h2']})
      const session = http2.connect('https://HOST', {createConnection})
      let left = 10
      const found = []
      for (let number = 0; number < 10; number++) {
        const head = {':path': '/' + number, ':method': 'POST', te: 'trailers', 'x-token': process.env.TOKEN}
        const stream = session.request(head)
        let text = '', trailer = ''
        stream.on('data', data => text += data).on('trailers', fields => trailer = fields['grpc-status'])
        stream.on('end', () => {
          found.push({...JSON.parse(text), trailer})
          if (!--left) { process.stdout.write(JSON.stringify(found)); session.close(); socket.destroy() }
        })
        stream.end('body')
      }
    }).end()
    """.replace("HOST", HOST)
    found = json.loads(run(box, "node", "-e", program))
    assert sorted(each["url"] for each in found) == [f"/{number}" for number in range(10)]
    for each in found:
        assert (each["version"], each["text"], each["trailer"]) == ("2.0", "body", "0")
        assert (each["te"], each["right"], each["token"]) == ("trailers", True, "kibo-secret-TOKEN")
