"""What makes programs in a box trust the gateway, and nobody else: a layer of the box's own, and variables.

The system's bundle in the layer is the base's own with the gateway's authority behind it. Programs that bring a
bundle of their own have a variable each by which they are told of another.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kibo.model.errors import BuildFailed
from kibo.runtime.idmap import ROOT_BASE, choose_map
from kibo.runtime.images.ownership import move_ids
from kibo.runtime.layers.beneath import beneath
from kibo.runtime.layers.store import Built, Layer, LayerStore, pin
from kibo.runtime.layers.temporary import TemporaryEntry

#: Raised when the layer's layout changes.
_LAYOUT: Final = 1
#: Where distributions keep their bundle. The first is Debian's, and where ours is in any case.
BUNDLES: Final = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)
#: Bundles have a fifth of a megabyte.
MAX_BUNDLE_BYTES: Final = 16 * 1024 * 1024
BUNDLE: Final = f"/{BUNDLES[0]}"
#: The authority alone, for programs that are told of one more besides their own.
AUTHORITY: Final = "/opt/kibo/trust/authority.pem"
VARIABLES: Final = {
    **dict.fromkeys(
        ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"), BUNDLE
    ),
    "NODE_EXTRA_CA_CERTS": AUTHORITY,
    # Node's own `fetch` takes no notice of a proxy without it.
    "NODE_USE_ENV_PROXY": "1",
}


def trust_layer(home: Path, layers: Sequence[Layer], certificate: bytes) -> Layer:
    """Returns the layer by which a box of `layers` trusts `certificate`. Some 10 ms where it has to be made.

    Args:
        home: The state directory.
        layers: Those below it, lowest first, whose bundle is taken along.
        certificate: The authority's, in PEM.
    """
    named = "\0".join(layer.digest for layer in layers)
    key = hashlib.blake2b(f"{_LAYOUT}\0trust\0{named}\0".encode() + certificate, digest_size=32).hexdigest()
    store = LayerStore(home)
    built = store.find(key)
    if built is None:
        built = Built((_make(store, layers, certificate),))
        store.record(key, built)
    pin(home, built.layers)
    return built.layers[0]


def _make(store: LayerStore, layers: Sequence[Layer], certificate: bytes) -> Layer:
    entry = TemporaryEntry.create(store.home, "trust")
    try:
        tree = entry.path / "tree"
        _write(tree, AUTHORITY.lstrip("/"), certificate)
        bundles = {name: found for name in BUNDLES if (found := _topmost(layers, name)) is not None}
        known = next(iter(bundles.values()), b"")
        for name in {BUNDLES[0], *bundles}:
            _write(tree, name, bundles.get(name, known).rstrip(b"\n") + b"\n" + certificate)
        if choose_map().kind == "root":
            move_ids(tree, ROOT_BASE)
        inside = ROOT_BASE if choose_map().kind == "root" else 0
        return store.seal(
            entry, tree, inside=lambda number: number - inside, cleaning="nothing", step="trust"
        )
    finally:
        entry.remove()


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
            data = file.read(MAX_BUNDLE_BYTES + 1)
        if len(data) > MAX_BUNDLE_BYTES:
            raise BuildFailed(
                f"/{name} has more than {MAX_BUNDLE_BYTES} bytes",
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
