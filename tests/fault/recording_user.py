"""A user's program that records two answers, or exports or imports what was recorded, and may be killed on the way."""

from __future__ import annotations

import http.server
import sys
import threading
from pathlib import Path

from doors import Proxy
from kibo.box.policy import Allow
from kibo.effects.forwarder import Forwarder
from kibo.effects.recordings import Recordings
from kibo.effects.taping import RecordingTape
from kibo.model.asker import Asker
from kibo.model.errors import HostDiskFull, RecordingLost

#: What this program exits with where the recording was not kept, and it was told so.
LOST, FULL = 3, 4


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.path.encode() * int(self.path.rpartition("/")[2] or 1)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


def record(home: Path, paths: list[str]) -> int:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rule = Allow("shop.example", to=f"127.0.0.1:{server.server_address[1]}")
    with Forwarder.start(home.parent / "authority") as gateway:
        tape = RecordingTape(gateway, Recordings(home), "it")
        box = Proxy(gateway, "inst_1", [rule], [], Asker(tape=tape.id))
        for path in paths:
            answer = box.get("shop.example", path)
            times = int(path.rpartition("/")[2])
            # Whatever becomes of the recording, the box gets all of it.
            assert answer.endswith(b"\r\n\r\n" + path.encode() * times), answer[:200]
        try:
            tape.close()
        except RecordingLost:
            return LOST
        except HostDiskFull:
            return FULL
    return 0


def main() -> int:
    home, what, *words = Path(sys.argv[1]), *sys.argv[2:]
    if what == "record":
        return record(home, words)
    if what == "export":
        Recordings(home).send("it", Path(words[0]))
    else:
        Recordings(home).receive(Path(words[0]), "imported")
    return 0


if __name__ == "__main__":
    sys.exit(main())
