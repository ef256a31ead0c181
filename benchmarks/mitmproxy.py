"""mitmdump beside the gateway, in an environment of its own: the same requests to the same server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VERSION: Final = "11.0.2"  # the last that Python 3.11 takes
INSTALL_S: Final = 170.0
START_S: Final = 30.0


class UnavailableError(Exception):
    """It cannot be had here; the text says why."""


def environment() -> Path:
    """Returns a directory with mitmdump's programs, which is made by the first that asks and kept.

    Raises:
        UnavailableError: It cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "kibo-benchmarks" / f"mitmproxy-{VERSION}-py{sys.version_info[0]}{sys.version_info[1]}"
    programs = place / "bin"
    if (programs / "mitmdump").exists():
        return programs
    place.parent.mkdir(parents=True, exist_ok=True)
    # Programs name their interpreter by its path, so it is made where it stays; a half of one is made anew.
    shutil.rmtree(place, ignore_errors=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    wanted = f"mitmproxy=={VERSION}"
    try:
        if uv is not None:
            _do(uv, "venv", "--quiet", "--python", sys.executable, str(place))
            _do(uv, "pip", "install", "--quiet", "--python", str(programs / "python"), wanted)
        else:
            _do(sys.executable, "-m", "venv", str(place))
            _do(str(programs / "python"), "-m", "pip", "install", "--quiet", wanted)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(place, ignore_errors=True)
        said = getattr(error, "stderr", None) or str(error)
        raise UnavailableError(f"mitmproxy {VERSION} cannot be installed: {said.strip()[-200:]}") from error
    return programs


def _do(*command: str) -> None:
    # What the machine trusts, a proxy's authority included; the name depends on uv's version.
    trusting = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
    subprocess.run(
        command, check=True, timeout=INSTALL_S, capture_output=True, text=True, env=os.environ | trusting
    )


@contextlib.contextmanager
def mitmdump(trust: Path) -> Iterator[tuple[int, bytes]]:
    """Starts it, as it comes but for bodies, which it streams as the gateway does. Yields its port, and the certificate
    by which to trust it.

    Args:
        trust: A file of certificates in PEM that it checks servers with.

    Raises:
        UnavailableError: It cannot be installed, or does not begin.
    """
    program = environment() / "mitmdump"
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        command = [
            str(program), "--quiet", "--listen-host", "127.0.0.1", "--listen-port", str(port),
            "--set", f"confdir={place}", "--set", f"ssl_verify_upstream_trusted_ca={trust}",
            "--set", "stream_large_bodies=1m",
        ]  # fmt: skip
        # Into no pipe that nobody reads: it writes some lines for each request, and waits once that is full.
        with (
            open(f"{place}/said", "w+") as said,
            subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL) as process,
        ):
            try:
                deadline = time.monotonic() + START_S
                while not _listens(port):
                    if process.poll() is not None or time.monotonic() > deadline:
                        said.seek(0)
                        raise UnavailableError(f"mitmdump did not begin: {said.read()[-200:]}")
                    time.sleep(0.05)
                yield port, Path(place, "mitmproxy-ca-cert.pem").read_bytes()
            finally:
                process.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
