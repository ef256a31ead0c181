"""Where values of secrets are: one suite over the environment, files, a keyring and Vault's HTTP API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from doors import Proxy, Server
from kibo.box.policy import Allow, Secret
from kibo.effects.forwarder import Forwarder
from kibo.effects.values import vault
from kibo.effects.values.finding import Values
from kibo.effects.values.references import Reference
from kibo.model.errors import InvalidInput, KiboError, SecretUnavailable
from kibo.model.limits import MAX_SECRET_BYTES

pytestmark = pytest.mark.contract

VALUE = 'v4lue of "it"/+'
TOKEN = "hvs.of-the-test"


class Vault:
    """What a client sees of Vault: engines of both versions, a token, and the ways in which it says no."""

    def __init__(self) -> None:
        self.mounts = {"secret/": "2", "team/kv/": "2", "old/": "1"}
        self.kept = {"secret/shop/ada": {"token": VALUE, "count": 3}, "team/kv/shop": {"token": VALUE}}
        self.kept["old/shop"] = {"token": VALUE}
        self.asked: list[str] = []
        self.status = 0
        self.body: bytes | None = None
        keeps = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keeps.asked.append(self.path)
                status, data = keeps.answer(unquote(self.path), self.headers["X-Vault-Token"])
                body = json.dumps(data).encode() if keeps.body is None else keeps.body
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", f"{keeps.address}/v1/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str, token: str) -> tuple[int, object]:
        if self.status:
            return self.status, {"errors": ["as the test wants"]}
        if token != TOKEN:
            return 403, {"errors": ["permission denied"]}
        path = path.removeprefix("/v1/")
        asked = path.removeprefix("sys/internal/ui/mounts/")
        mount = next((mount for mount in self.mounts if asked.startswith(mount)), "")
        if not mount:
            return (403 if asked != path else 404), {"errors": ["preflight capability check returned 403"]}
        if asked != path:
            return 200, {"data": {"path": mount, "type": "kv", "options": {"version": self.mounts[mount]}}}
        if self.mounts[mount] == "1":
            found = self.kept.get(path)
            return (200, {"data": found}) if found else (404, {"errors": []})
        found = self.kept.get(path.replace(f"{mount}data/", mount)) if f"{mount}data/" in path else None
        return (
            (200, {"data": {"data": found, "metadata": {"version": 1}}}) if found else (404, {"errors": []})
        )

    @property
    def variables(self) -> dict[str, str]:
        return {"VAULT_ADDR": self.address, "VAULT_TOKEN": TOKEN}


@pytest.fixture
def server() -> Iterator[Vault]:
    vault = Vault()
    with vault.server:
        threading.Thread(target=vault.server.serve_forever, args=(0.01,), daemon=True).start()
        yield vault
        vault.server.shutdown()


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str | Exception]:
    """A keyring of its own behind the package's interface, as its backends are."""
    import keyring
    from keyring.backend import KeyringBackend

    kept: dict[tuple[str, str], str | Exception] = {}

    class Kept(KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            found = kept.get((service, username))
            if isinstance(found, Exception):
                raise found
            return found

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

    before = keyring.get_keyring()
    keyring.set_keyring(Kept())
    keyring.set_password("https://shop.example", "ada", VALUE)
    yield kept
    keyring.set_keyring(before)


Place = Callable[[str], Values]


@pytest.fixture(params=["environment", "file", "keyring", "vault", "vault, deeper", "vault, version 1"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: Vault, keyring: object) -> Values:
    file = tmp_path / "token"
    file.write_text(VALUE + "\n")
    where = {
        "environment": ({"TOKEN": VALUE}, {}),
        "file": ({}, {"TOKEN": f"file:{file}"}),
        "keyring": ({}, {"TOKEN": "keyring:https://shop.example/ada"}),
        "vault": (server.variables, {"TOKEN": "vault:secret/shop/ada#token"}),
        "vault, deeper": (server.variables, {"TOKEN": "vault:team/kv/shop#token"}),
        "vault, version 1": (server.variables, {"TOKEN": "vault:old/shop#token"}),
    }
    return Values(*where[request.param])


def test_a_value_is_found_where_it_is_said_to_be(place: Values) -> None:
    assert place.find("TOKEN") == VALUE
    with pytest.raises(InvalidInput, match="OTHER has no value") as caught:
        place.find("OTHER")
    assert 'OTHER = "file:/run/secrets/other"' in caught.value.hint


def test_the_environment_counts_first(server: Vault) -> None:
    values = Values({**server.variables, "TOKEN": "mine"}, {"TOKEN": "vault:secret/shop/ada#token"})
    assert values.find("TOKEN") == "mine"
    assert server.asked == []


def test_vault_is_asked_once_for_many_boxes_and_again_when_a_value_is_old(
    server: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = Values(server.variables, {"TOKEN": "vault:secret/shop/ada#token"})
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(values.find("TOKEN"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [VALUE] * 20
    assert server.asked == ["/v1/sys/internal/ui/mounts/secret/shop/ada", "/v1/secret/data/shop/ada"]
    server.kept["secret/shop/ada"]["token"] = "turned"
    assert values.find("TOKEN") == VALUE
    monkeypatch.setattr("kibo.effects.values.finding.KEPT_S", 0.0)
    assert Values(server.variables, values.sources).find("TOKEN") == "turned"


def test_a_file_that_is_turned_counts_from_the_next_box_on(tmp_path: Path) -> None:
    file = tmp_path / "token"
    values = Values({}, {"TOKEN": f"file:{file}"})
    for value in ("one", "two\n", "three\r\n", "four\n\n"):
        file.write_bytes(value.encode())
        assert values.find("TOKEN") == value.removesuffix("\n").removesuffix("\r")


@pytest.mark.parametrize(
    "text",
    ["", "TOKEN", "file:", "file:token", "file:../x", "keyring:shop", "keyring:/ada", "keyring:shop/",
     "vault:secret/shop", "vault:#x", "vault:secret/shop#", "vault:a\nb#c", "op://x/y", "env:TOKEN"],
)  # fmt: skip
def test_what_says_of_no_place_where_it_is_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="does not say where") as caught:
        Values({}, {"TOKEN": text})
    assert "vault:secret/shop#token" in caught.value.hint


def test_a_reference_is_written_as_it_is_read() -> None:
    for text in ("file:/run/x", "file:~/x", "keyring:https://a.example/b", "vault:a/b/c#d"):
        assert str(Reference.parse(text)) == text


def test_a_file_that_is_none_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * (MAX_SECRET_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n")
    for name, why in {
        "missing": "No such file",
        "pipe": "is no file",
        ".": "Is a directory",
        "/dev/zero": "is no file",
        "long": "more than",
        "binary": "UTF-8",
        "empty": "is empty",
    }.items():
        path = str(tmp_path / name)
        with pytest.raises(InvalidInput, match=why):
            Values({}, {"TOKEN": f"file:{path}"}).find("TOKEN")


@pytest.mark.parametrize(
    ("status", "hint"),
    [(403, "vault login"), (503, "vault operator unseal"), (307, "VAULT_ADDR"), (500, "vault status"),
     (429, "vault status")],
)  # fmt: skip
def test_a_vault_that_says_no_is_named_with_what_to_do(server: Vault, status: int, hint: str) -> None:
    server.status = status
    values = Values(server.variables, {"TOKEN": "vault:secret/shop/ada#token"})
    with pytest.raises(SecretUnavailable) as caught:
        values.find("TOKEN")
    assert caught.value.retry == "after"
    assert hint in caught.value.hint
    assert len(server.asked) == 1  # a redirect, which would have the token, is not followed
    assert TOKEN not in caught.value.message + caught.value.hint + str(caught.value.details)
    server.status = 0
    assert values.find("TOKEN") == VALUE


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"data": 7}', b'{"data": {"path": 7}}', b'{"data": {"path": "other/"}}',
     b'{"data": {"path": "", "options": 7}}', b"x" * (vault.MAX_ANSWER_BYTES + 1)],
)  # fmt: skip
def test_what_is_no_answer_of_vaults_is_said_to_be_none(server: Vault, body: bytes) -> None:
    server.body = body
    with pytest.raises(SecretUnavailable, match="not one of Vault's"):
        Values(server.variables, {"TOKEN": "vault:secret/shop/ada#token"}).find("TOKEN")


def test_a_vault_that_has_no_such_secret_or_field_says_so(server: Vault) -> None:
    for place, why, hint in [
        ("secret/none#token", "Vault has no secret/none", "vault kv put secret/none token=-"),
        ("secret/shop/ada#none", "no text called 'none'", "It has count, token."),
        ("secret/shop/ada#count", "no text called 'count'", "vault kv patch secret/shop/ada"),
    ]:
        with pytest.raises(InvalidInput, match=why) as caught:
            Values(server.variables, {"TOKEN": f"vault:{place}"}).find("TOKEN")
        assert hint in caught.value.hint
        assert VALUE not in caught.value.message + caught.value.hint


def test_without_an_address_a_token_or_anybody_there_vault_is_not_to_be_had(
    tmp_path: Path, server: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = {"TOKEN": "vault:secret/shop/ada#token"}
    with pytest.raises(InvalidInput, match="which Vault"):
        Values({}, sources).find("TOKEN")
    only_address = {"VAULT_ADDR": server.address}
    with pytest.raises(SecretUnavailable, match="no token"):
        Values(only_address, sources).find("TOKEN")
    (tmp_path / ".vault-token").write_text(f"{TOKEN}\n")
    assert Values(only_address, sources).find("TOKEN") == VALUE
    with pytest.raises(SecretUnavailable, match="does not answer"):
        Values({"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": TOKEN}, sources).find("TOKEN")
    with pytest.raises(SecretUnavailable, match="VAULT_CACERT"):
        Values({**server.variables, "VAULT_CACERT": str(tmp_path / "none")}, sources).find("TOKEN")


def test_a_keyring_that_is_locked_or_has_nothing_says_what_to_do(
    keyring: dict[tuple[str, str], str | Exception],
) -> None:
    from keyring.errors import KeyringLocked

    with pytest.raises(InvalidInput, match="has no keyring:shop/bob") as caught:
        Values({}, {"TOKEN": "keyring:shop/bob"}).find("TOKEN")
    assert caught.value.hint == "keyring set shop bob"
    keyring["shop", "bob"] = KeyringLocked("nobody unlocked it")
    with pytest.raises(SecretUnavailable, match="nobody unlocked it"):
        Values({}, {"TOKEN": "keyring:shop/bob"}).find("TOKEN")


def test_without_a_keyring_of_the_system_or_the_package_that_is_said(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:]))\n"
        "from kibo.effects.values.finding import Values\n"
        "try: Values({}, {'TOKEN': 'keyring:shop/ada'}).find('TOKEN')\n"
        "except Exception as error: print(type(error).__name__, error.hint)"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    variables["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

    def said(*hidden: str) -> str:
        command = [sys.executable, "-c", program, *hidden]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    assert said("keyring") == 'InvalidInput pip install "kibo[keyring]"\n'
    assert said().startswith("SecretUnavailable Unlock it")


def test_a_gateway_puts_in_what_vault_has_and_a_box_that_vault_says_no_to_has_no_way_out(
    tmp_path: Path, server: Vault
) -> None:
    sources = {"TOKEN": "vault:secret/shop/ada#token", "OTHER": "vault:secret/none#token"}
    shop = Server()
    rules = [Allow("shop.example", to=shop.address)]
    token, other = (Secret(name, hosts=["shop.example"]) for name in ("TOKEN", "OTHER"))
    with Forwarder.start(tmp_path / "authority", server.variables, sources=sources) as gateway:
        box = Proxy(gateway, "inst_1", list(rules), [token])
        assert b"200 OK" in box.send(
            b"GET http://shop.example/ HTTP/1.1\r\nhost: shop.example\r\nx-key: kibo-secret-TOKEN\r\n\r\n"
        )
        assert f"x-key: {VALUE}".encode() in shop.received[0]
        with pytest.raises(KiboError, match="Vault has no secret/none"):
            Proxy(gateway, "inst_2", list(rules), [token, other])
        setup = Path(f"/proc/{gateway.pid}/cmdline").read_bytes()
        assert VALUE.encode() not in setup
    shop.close()
