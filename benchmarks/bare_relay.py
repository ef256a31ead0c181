"""What nothing in between could do better: one thread of one process that opens TLS, closes it again, and does no more.

It is what the gateway's throughput is held against. It knows no HTTP, serves one connection, and waits for one side
while the other might have something to say.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from kibo.effects.authority import Authority

CHUNK_BYTES = 128 * 1024


class Side:
    """One side, with TLS done over memory: fewer system calls than there are records."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, host: str, *, server: bool
    ) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else host
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=name)
        self._read = memoryview(bytearray(CHUNK_BYTES))
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                break
            self._flush()
            self._feed()
        self._flush()

    def receive(self, into: memoryview) -> int:
        """Reads what has come, at least something. Returns how many bytes; 0 at the end."""
        got = 0
        while True:
            try:
                while got < len(into):
                    # With a buffer it returns a count, which its declared type does not say.
                    count = cast(int, self._tls.read(len(into) - got, into[got:]))
                    if not count:
                        return got
                    got += count
                return got
            except ssl.SSLWantReadError:
                if got:
                    return got
                if not self._feed():
                    return 0

    def send(self, data: memoryview) -> None:
        self._tls.write(data)
        self._flush()

    def _feed(self) -> bool:
        count = self._connection.recv_into(self._read)
        self._incoming.write(self._read[:count])
        return bool(count)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._connection.sendall(self._outgoing.read())


@contextlib.contextmanager
def relaying(directory: Path, trust: Path, server: int, host: str) -> Iterator[int]:
    """Starts one in a process of its own, for one connection and one request on it. Yields its port.

    Args:
        directory: The authority that it has its certificate from.
        trust: What the server's is checked with.
        server: The server's port.
        host: The name in both.
    """
    command = [sys.executable, "-m", "benchmarks.bare_relay", str(directory), str(trust), str(server), host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def serve(directory: Path, trust: Path, port: int, host: str) -> None:
    """Carries one request to the server, and then what it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
    with connection, socket.create_connection(("127.0.0.1", port)) as onward:
        client = Side(connection, Authority.open(directory).context(host), host, server=True)
        server = Side(onward, ssl.create_default_context(cafile=trust), host, server=False)
        piece = memoryview(bytearray(CHUNK_BYTES))
        server.send(piece[: client.receive(piece)])
        while count := server.receive(piece):
            client.send(piece[:count])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
