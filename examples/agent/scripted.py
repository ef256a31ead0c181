"""A real HTTP server that speaks chat completions and answers by a script: for tests, and for a demo without a model.

It keeps no state: which part is spoken follows from the system message, and which line of it from how many turns the
conversation has. So any number of agents can talk to it at the same time, and each run is the same as the last.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: One turn: what to say, or the tools to call, each a name and its arguments.
Turn = str | Sequence[tuple[str, Mapping[str, Any]]]
#: By a phrase of the system message: the turns.
Script = Mapping[str, Sequence[Turn]]

MOST_BYTES = 4 << 20  # of a request


class Refused(Exception):
    """The request is not one that the API takes, or the script has no turn for it."""


def reply(script: Script, body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the completion for a request.

    Raises:
        Refused: See there.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages: a list with at least one message is required")
    _check_calls(messages)
    system = next((m.get("content") or "" for m in messages if m.get("role") == "system"), "")
    part = next((phrase for phrase in script if phrase in system), None)
    if part is None:
        raise Refused(f"the script has no part for the system message {system!r}")
    spoken = sum(message.get("role") == "assistant" for message in messages)
    if spoken >= len(script[part]):
        raise Refused(f"the part {part!r} has {len(script[part])} turns, and all were spoken")
    turn = script[part][spoken]
    message: dict[str, Any] = {"role": "assistant", "content": turn if isinstance(turn, str) else None}
    if not isinstance(turn, str):
        message["tool_calls"] = [
            {
                "id": f"call_{spoken}_{index}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for index, (name, arguments) in enumerate(turn)
        ]
    read = len(json.dumps(messages)) // 4
    written = len(json.dumps(message)) // 4
    return {
        "id": f"chatcmpl-{spoken}",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model", "scripted"),
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": "stop" if isinstance(turn, str) else "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuses what the real API refuses: calls without an answer, and answers without a call."""
    waiting: set[str] = set()
    for message in messages:
        if message.get("role") == "tool":
            if message.get("tool_call_id") not in waiting:
                raise Refused(f"a tool message answers {message.get('tool_call_id')!r}, which nobody called")
            waiting.discard(str(message["tool_call_id"]))
        elif waiting:
            raise Refused(f"tool calls without an answer: {', '.join(sorted(waiting))}")
        waiting |= {call["id"] for call in message.get("tool_calls") or ()}
    if waiting:
        raise Refused(f"tool calls without an answer: {', '.join(sorted(waiting))}")


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Serves the script on a port of this machine and gives the endpoint's base URL, such as ``http://.../v1``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if size > MOST_BYTES:
                self._send(413, {"error": {"message": "the request is too large"}})
                self.close_connection = True
                return
            content = self.rfile.read(size)
            if self.path != "/v1/chat/completions":
                self._send(404, {"error": {"message": f"there is no {self.path}"}})
                return
            try:
                self._send(200, reply(script, json.loads(content)))
            except (Refused, ValueError) as error:
                self._send(400, {"error": {"message": str(error), "type": "invalid_request_error"}})

        def _send(self, status: int, document: Any) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: the demo has the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="scripted")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
