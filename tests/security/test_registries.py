"""Registries that lie: where a token is to be fetched, and documents that are none."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kibo.model.errors import BuildFailed
from kibo.runtime.images.registry import fetch_image, fetch_layer, open_source


@dataclass
class Liar:
    """A registry that answers as it is told.

    Attributes:
        address: Where it is.
        challenge: What it asks for before it gives anything; empty for nothing.
        body: What it answers with.
        claims: How many bytes more than that it says it sends.
        tokens: What it was shown as a token.
    """

    address: str = ""
    challenge: str = ""
    body: bytes = b""
    claims: int = 0
    tokens: list[str] = field(default_factory=list)

    def handler(liar) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                liar.tokens.append(self.headers.get("authorization", ""))
                self.send_response(401 if liar.challenge and not liar.tokens[-1] else 200)
                if liar.challenge:
                    self.send_header("www-authenticate", liar.challenge)
                self.send_header("content-length", str(len(liar.body) + liar.claims))
                self.end_headers()
                self.wfile.write(liar.body)

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

        return Handler


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    with ThreadingHTTPServer(("127.0.0.1", 0), made.handler()) as server:
        made.address = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


@pytest.mark.parametrize("behind", ["", "#", "?"])
def test_a_file_of_the_hosts_is_not_fetched_and_sent_on_as_a_token(
    liar: Liar, tmp_path: Path, behind: str
) -> None:
    secret = tmp_path / "credentials.json"
    secret.write_text(json.dumps({"token": "hunter2"}))
    liar.challenge = f'Bearer realm="file://{secret}{behind}"'
    with pytest.raises(BuildFailed, match="file://"):
        fetch_image(open_source(f"{liar.address}/tool:1"))
    assert liar.tokens == [""]


def test_who_gives_no_token_is_named(liar: Liar) -> None:
    liar.challenge = f'Bearer realm="http://{liar.address}/token"'
    with pytest.raises(BuildFailed, match="token") as caught:
        fetch_image(open_source(f"{liar.address}/tool:1"))
    assert "signing in" in caught.value.hint


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"manifests": [7]}', b'{"layers": [], "config": 1}']
)
def test_what_is_no_manifest_is_an_error_that_says_so(liar: Liar, body: bytes) -> None:
    liar.body = body
    with pytest.raises(BuildFailed, match="manifest") as caught:
        fetch_image(open_source(f"{liar.address}/tool:1"))
    assert caught.value.hint


@pytest.mark.parametrize("claims", [0, 1000])
def test_a_layer_that_is_cut_short_is_an_error(liar: Liar, tmp_path: Path, claims: int) -> None:
    liar.body, liar.claims = b"half", claims
    digest = f"sha256:{hashlib.sha256(b'half of it').hexdigest()}"
    with pytest.raises(BuildFailed) as caught:
        fetch_layer(open_source(f"{liar.address}/tool:1"), digest, tmp_path / "layer", lambda count: None)
    assert caught.value.hint


def test_a_layout_without_what_its_index_names_is_an_error_that_says_so(tmp_path: Path) -> None:
    entry = {"digest": f"sha256:{'0' * 64}", "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    with pytest.raises(BuildFailed, match="No such file"):
        fetch_image(open_source(f"dir:{tmp_path}"))
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(BuildFailed, match="manifest"):
        fetch_image(open_source(f"dir:{tmp_path}"))
