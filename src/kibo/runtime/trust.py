"""What makes programs in a box find the gateway, and trust nobody else: a layer of the box's own, and variables.

The system's bundle in the layer is the base's own with the gateway's authority behind it. Programs that bring a
bundle of their own have a variable each by which they are told of another. Hosts that a box may speak any protocol to
have their places of its loopback in `/etc/hosts`, behind what the base has there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kibo.box.forwards import Forward
from kibo.model.errors import BuildFailed
from kibo.runtime.idmap import ROOT_BASE, choose_map
from kibo.runtime.images.ownership import move_ids
from kibo.runtime.layers.beneath import beneath
from kibo.runtime.layers.store import Built, Layer, LayerStore, pin
from kibo.runtime.layers.temporary import TemporaryEntry

#: Raised when the layer's layout changes.
_LAYOUT: Final = 3
HOSTS: Final = "etc/hosts"
#: Where distributions keep their bundle. The first is Debian's, and where ours is in any case.
BUNDLES: Final = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)
#: Of a file that is taken along. Bundles have a fifth of a megabyte.
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
BUNDLE: Final = f"/{BUNDLES[0]}"
#: The authority alone, for programs that are told of one more besides their own.
AUTHORITY: Final = "/opt/kibo/trust/authority.pem"
#: What has Node's `fetch` use the proxy in versions that cannot by themselves.
NODE_FETCH: Final = "/opt/kibo/trust/node_fetch.cjs"
#: Where Chromium and Chrome, which look at no bundle, read what a machine's owner has them trust besides their own
#: (chromeenterprise.google/policies: CACertificates; from version 128 on).
POLICIES: Final = ("etc/chromium/policies/managed/kibo.json", "etc/opt/chrome/policies/managed/kibo.json")
VARIABLES: Final = {
    **dict.fromkeys(
        ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"), BUNDLE
    ),
    "NODE_EXTRA_CA_CERTS": AUTHORITY,
    # Node's own `fetch` takes no notice of a proxy without one or the other, as its version is.
    "NODE_USE_ENV_PROXY": "1",
    "NODE_OPTIONS": f"--require={NODE_FETCH}",
}


def trust_layer(
    home: Path, layers: Sequence[Layer], certificate: bytes, forwards: Sequence[Forward] = ()
) -> Layer:
    """Returns the layer by which a box of `layers` trusts `certificate`. Some 10 ms where it has to be made.

    Args:
        home: The state directory.
        layers: Those below it, lowest first, whose bundle is taken along.
        certificate: The authority's, in PEM.
        forwards: Names that lead to its own loopback.
    """
    named = "\0".join(layer.digest for layer in layers)
    hosts = "".join(
        f"{address} {host}\n" for address, host in dict.fromkeys(f[:2] for f in forwards)
    ).encode()
    key = hashlib.blake2b(
        f"{_LAYOUT}\0trust\0{named}\0".encode() + hosts + certificate, digest_size=32
    ).hexdigest()
    store = LayerStore(home)
    built = store.find(key)
    if built is None:
        built = Built((_make(store, layers, certificate, hosts),))
        store.record(key, built)
    pin(home, built.layers)
    return built.layers[0]


def _make(store: LayerStore, layers: Sequence[Layer], certificate: bytes, hosts: bytes) -> Layer:
    entry = TemporaryEntry.create(store.home, "trust")
    try:
        tree = entry.path / "tree"
        _write(tree, AUTHORITY.lstrip("/"), certificate)
        _write(tree, NODE_FETCH.lstrip("/"), Path(__file__).with_name("node_fetch.cjs").read_bytes())
        for name in POLICIES:
            _write(tree, name, _policy(certificate))
        bundles = {name: found for name in BUNDLES if (found := _topmost(layers, name)) is not None}
        known = next(iter(bundles.values()), b"")
        for name in {BUNDLES[0], *bundles}:
            _write(tree, name, bundles.get(name, known).rstrip(b"\n") + b"\n" + certificate)
        if hosts:
            known = _topmost(layers, HOSTS) or b"127.0.0.1 localhost\n::1 localhost\n"
            _write(tree, HOSTS, known.rstrip(b"\n") + b"\n" + hosts)
        if choose_map().kind == "root":
            move_ids(tree, ROOT_BASE)
        inside = ROOT_BASE if choose_map().kind == "root" else 0
        return store.seal(
            entry, tree, inside=lambda number: number - inside, cleaning="nothing", step="trust"
        )
    finally:
        entry.remove()


def _policy(certificate: bytes) -> bytes:
    encoded = "".join(line for line in certificate.decode().splitlines() if not line.startswith("-----"))
    return json.dumps({"CACertificates": [encoded]}).encode()


def _topmost(layers: Sequence[Layer], name: str) -> bytes | None:
    """Reads a regular file from the highest layer that has the name; None where there is none.

    What a build step wrote is not to be trusted: no link is followed, and nothing endless is read.
    """
    for layer in reversed(layers):
        path = beneath(layer.path, name)
        if path is None or not os.path.lexists(path):
            continue
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise BuildFailed(
                f"/{name} has more than {MAX_FILE_BYTES} bytes",
                hint="A bundle of certificates has some 200 KB: look at what wrote it",
            )
        return data
    return None


def _write(tree: Path, name: str, data: bytes) -> None:
    path = tree / name
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
    for directory in path.parents:
        os.chmod(directory, 0o755)
        if directory == tree:
            return
