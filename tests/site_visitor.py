"""A box whose programs visit a server on loopback with a certificate: none of them is told of the gateway."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from kibo import Allow, Box, Env, Secret
from kibo.runtime.instance import Instance
from kibo.wiring import Runtime

HOST = "site.example"


@contextmanager
def visitor(
    address: str,
    trust: trustme.CA,
    place: Path,
    libraries: Iterable[str],
    others: Mapping[str, str] | None = None,
) -> Iterator[Instance]:
    """Spawns the box, in a runtime of its own.

    Args:
        address: Of the server that is ``site.example``.
        trust: Who has issued its certificate.
        place: An empty directory.
        libraries: What its programs bring along that is not the system's, without asking a registry for it.
        others: Addresses of other hosts that may have its secret.
    """
    hosts = {HOST: address, **(others or {})}
    trust.cert_pem.write_to_path(place / "servers.pem")
    brought = [*map(_package, libraries), *map(_metadata, ("httpx2", "httpcore2"))]

    class Visitor(Box):
        """Visits a site."""

        env = Env(files={f"/opt/tools/{Path(each).name}": each for each in brought})
        egress = [Allow(host, to=address) for host, address in hosts.items()]
        secrets = [Secret("TOKEN", hosts=list(hosts))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIBO_EXTRA_CA_FILE", str(place / "servers.pem"))
        patch.setenv("TOKEN", "s3cret value")
        runtime = Runtime()
        try:
            with runtime.spawn(Visitor()) as box:
                yield box
        finally:
            runtime.close()


def _package(name: str) -> str:
    found = importlib.util.find_spec(name)
    assert found is not None, name
    assert found.origin is not None, name
    return found.origin if Path(found.origin).stem == name else str(Path(found.origin).parent)


def _metadata(name: str) -> str:
    """Where a package says which version it is, for one that asks for its own."""
    return str(next(Path(_package(name)).parent.glob(f"{name}-*.dist-info")))


def run(box: Instance, *command: str) -> str:
    """Runs a program in it that has to succeed, and returns what it printed."""
    done = box.exec(list(command), timeout_s=50)
    assert done.returncode == 0, done.stderr + done.stdout
    return str(done.stdout)
